"""expunge: remove chosen knowledge from a language model, measure how much of it is gone, and report what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.lazy import lazy_exports

if TYPE_CHECKING:
    __version__: str
    from expunge.commands.audit import AuditConfig as AuditConfig
    from expunge.commands.audit import audit as audit
    from expunge.commands.check import check as check
    from expunge.commands.doctor import doctor as doctor
    from expunge.commands.dry_run import dry_run as dry_run
    from expunge.commands.evaluate import EvaluateConfig as EvaluateConfig
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
else:
    _get_attribute, _, _names = lazy_exports(
        __name__,
        {
            "expunge.config.recipe": ("Recipe",),
            "expunge.config.load": ("load_recipe",),
            "expunge.errors": ("UserError",),
            "expunge.runs.run": ("run",),
            "expunge.sweeps.sweep": ("sweep",),
            "expunge.commands.dry_run": ("dry_run",),
            "expunge.commands.check": ("check",),
            "expunge.commands.plan": ("plan",),
            "expunge.commands.evaluate": ("evaluate", "EvaluateConfig"),
            "expunge.commands.score_log": ("score_log",),
            "expunge.commands.audit": ("audit", "AuditConfig"),
            "expunge.report.html": ("write_report",),
            "expunge.commands.init": ("init",),
            "expunge.commands.show": ("ls", "show", "schema"),
            "expunge.commands.doctor": ("doctor",),
        },
    )
    __all__ = [*_names, "__version__"]

    def __getattr__(name: str) -> Any:
        """Import a public name on first use, or read the version of the installed package."""
        if name == "__version__":
            from importlib.metadata import version

            return version("expunge")
        return _get_attribute(name)

    def __dir__() -> list[str]:
        return sorted(__all__)
