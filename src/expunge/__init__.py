"""expunge: remove chosen knowledge from a language model, prove how much of it is gone, and say what it cost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "expunge.config.recipe",
    "load_recipe": "expunge.config.load",
    "UserError": "expunge.errors",
    "run": "expunge.runs.run",
    "evaluate": "expunge.runs.evaluate",
    "check": "expunge.runs.check",
    "score_log": "expunge.runs.score_log",
    "report": "expunge.report.html",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from expunge.config.load import load_recipe as load_recipe
    from expunge.config.recipe import Recipe as Recipe
    from expunge.errors import UserError as UserError
    from expunge.runs.run import run as run


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing expunge must not import torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
