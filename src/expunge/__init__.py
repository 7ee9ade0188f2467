"""expunge: remove chosen knowledge from a language model, prove how much of it is gone, and say what it cost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Recipe": "expunge.config.recipe",
    "load_recipe": "expunge.config.load",
    "UserError": "expunge.errors",
    "run": "expunge.runs.run",
    "sweep": "expunge.sweeps.sweep",
    "dry_run": "expunge.commands.dry_run",
    "check": "expunge.commands.check",
    "plan": "expunge.commands.plan",
    "evaluate": "expunge.commands.evaluate",
    "score_log": "expunge.commands.score_log",
    "audit": "expunge.commands.audit",
    "write_report": "expunge.report.html",
    "init": "expunge.commands.init",
    "ls": "expunge.commands.show",
    "show": "expunge.commands.show",
    "schema": "expunge.commands.show",
    "doctor": "expunge.commands.doctor",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    __version__: str
    from expunge.commands.audit import audit as audit
    from expunge.commands.check import check as check
    from expunge.commands.doctor import doctor as doctor
    from expunge.commands.dry_run import dry_run as dry_run
    from expunge.commands.evaluate import evaluate as evaluate
    from expunge.commands.init import init as init
    from expunge.commands.plan import plan as plan
    from expunge.commands.score_log import score_log as score_log
    from expunge.commands.show import ls as ls
    from expunge.commands.show import schema as schema
    from expunge.commands.show import show as show
    from expunge.config.load import load_recipe as load_recipe
    from expunge.config.recipe import Recipe as Recipe
    from expunge.errors import UserError as UserError
    from expunge.report.html import write_report as write_report
    from expunge.runs.run import run as run
    from expunge.sweeps.sweep import sweep as sweep


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing expunge must not import torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("expunge")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
