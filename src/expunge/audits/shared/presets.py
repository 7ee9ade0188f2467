"""Presets of `expunge audit`: which audits run, with which settings."""

from __future__ import annotations

from typing import Any, Literal

Preset = Literal["quick", "standard", "full"]

PRESETS: dict[Preset, list[dict[str, Any]]] = {
    "quick": [{"name": "leaks"}],
    "standard": [{"name": "leaks"}],
    "full": [{"name": "leaks"}],
}
