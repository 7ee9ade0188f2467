"""Comparison of settings with their defaults."""

from __future__ import annotations

from pydantic import BaseModel


def changed(model: BaseModel, *names: str) -> list[str]:
    """Return the named settings that differ from their defaults, and so were set by the user."""
    fields = type(model).model_fields
    return [name for name in names if getattr(model, name) != fields[name].get_default(call_default_factory=True)]
