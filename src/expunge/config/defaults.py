"""Helpers for rules between settings."""

from __future__ import annotations

from pydantic import BaseModel


def changed(model: BaseModel, *names: str) -> list[str]:
    """Those of the named settings that differ from their defaults: the ones that a user must have meant."""
    fields = type(model).model_fields
    return [name for name in names if getattr(model, name) != fields[name].get_default(call_default_factory=True)]
