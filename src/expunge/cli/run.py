"""`expunge run`: from recipe to report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.logging import stay_local
from expunge.cli.output import (
    AsJson,
    Overrides,
    RecipeName,
    RunsFolder,
    print_json,
    print_table,
    results_only,
)
from expunge.console import is_main_process, print_result
from expunge.errors import Interrupted

if TYPE_CHECKING:
    from expunge.commands.dry_run import DryRun
    from expunge.config.recipe import Recipe
    from expunge.records import RunSummary


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    runs: RunsFolder = "runs",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show recipe, batches and memory; load no weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a model forget, measure, and report."""
    if dry_run:
        show_dry_run(recipe, overrides or [], as_json)
    else:
        execute(recipe, overrides or [], runs, as_json)


def execute(name: str, overrides: Sequence[str], runs: str, as_json: bool) -> None:
    """Run a recipe and print what came out."""
    from expunge.config.load import load_recipe

    recipe = load_recipe(name, overrides)
    if asks_hub(recipe):
        stay_local()
    from expunge.checks.settings import check_settings
    from expunge.runs.run import run as run_recipe

    with results_only():
        check_settings(recipe).raise_failed()
        try:
            summary = run_recipe(recipe, runs=runs)
        except Interrupted as error:
            raise Interrupted(f"in {runs}") from error
    if is_main_process():
        print_json(summary) if as_json else _print_summary(summary)


def show_dry_run(name: str, overrides: Sequence[str], as_json: bool) -> None:
    """Print what a run would do."""
    from expunge.commands.dry_run import dry_run

    with results_only():
        result = dry_run(name, overrides)
    print_json(result) if as_json else _print_dry_run(result)


def asks_hub(recipe: Recipe) -> bool:
    """Whether a recipe names something that is not on this machine."""
    model, data = recipe.model, recipe.data
    names = [model.name, model.retain_model, getattr(data, "path", None)]
    names += [getattr(getattr(data, part, None), "path", None) for part in ("forget", "retain", "holdout")]
    return any(name is not None and not Path(name).exists() for name in names)


def _print_summary(summary: RunSummary) -> None:
    from expunge.report.load import load_run
    from expunge.report.tables import headline_rows, to_rich

    folder = Path(summary.folder)
    print_table(to_rich(headline_rows(load_run(folder))))
    print_result("")
    print_result(summary.verdict.sentence)
    if summary.selected_epoch:
        print_result(f"Kept: epoch {summary.selected_epoch:g} ({summary.selection_rule}).")
    print_result(f"Report: {folder / 'report.html'}")


def _print_dry_run(result: DryRun) -> None:
    import yaml

    from expunge.planning.memory import format_bytes

    print_result(yaml.safe_dump(result.recipe, sort_keys=False, allow_unicode=True))
    for name, plan in result.trainings.items():
        print_result(
            f"{name}: {plan.rows} rows, {plan.steps} steps of {plan.batch_size} rows ({plan.device_rows} at "
            f"a time on a device, {plan.accumulation} times accumulated), {plan.warmup_steps} warm-up steps"
        )
    for name, memory in result.memory.items():
        parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in memory.parts.items() if size)
        print_result(f"{name}: about {format_bytes(memory.total_bytes)} ({parts}); {memory.how}")
    for note in result.notes:
        print_result(f"Note: {note}")
