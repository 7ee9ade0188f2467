"""`expunge run`: from recipe to report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.options import AsJson, Overrides, RecipeName, RunsFolder, work_offline_if_needed
from expunge.cli.output import print_json, print_table, results_only
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
    """Unlearn, measure, and write the report."""
    if dry_run:
        show_dry_run(recipe, overrides or [], as_json)
    else:
        execute(recipe, overrides or [], runs, as_json)


def execute(name: str, overrides: Sequence[str], runs: str, as_json: bool) -> None:
    """Run a recipe and print the summary."""
    from expunge.config.load import load_recipe

    recipe = load_recipe(name, overrides)
    work_offline_if_needed(*hub_names(recipe))
    from expunge.checks.settings import check_settings
    from expunge.runs import run

    with results_only():
        check_settings(recipe).raise_failed()
        try:
            summary = run.run(recipe, runs=runs)
        except Interrupted as error:
            raise Interrupted(f"in {runs}") from error
    if is_main_process():
        print_json(summary) if as_json else _print_summary(summary)


def show_dry_run(name: str, overrides: Sequence[str], as_json: bool) -> None:
    """Print what a run would do."""
    from expunge.commands import dry_run

    with results_only():
        result = dry_run.dry_run(name, overrides)
    print_json(result) if as_json else _print_dry_run(result)


def hub_names(recipe: Recipe) -> list[str | None]:
    """Return the models and data of a recipe that can be on the hub; None for those that the recipe leaves out."""
    model, data = recipe.model, recipe.data
    names = [model.name, model.retain_model, getattr(data, "path", None)]
    return names + [getattr(getattr(data, part, None), "path", None) for part in ("forget", "retain", "holdout")]


def _print_summary(summary: RunSummary) -> None:
    from expunge.report.load import load_run
    from expunge.report.tables import headline_rows, to_rich

    folder = Path(summary.folder)
    print_table(to_rich(headline_rows(load_run(folder))))
    print_result("")
    print_result(summary.verdict.sentence)
    if summary.selected_epoch:
        print_result(f"Checkpoint: epoch {summary.selected_epoch:g} ({summary.selection_rule}).")
    print_result(f"Report: {folder / 'report.html'}")


def _print_dry_run(result: DryRun) -> None:
    import yaml

    from expunge.planning.memory import format_bytes

    print_result(yaml.safe_dump(result.recipe, sort_keys=False, allow_unicode=True))
    for name, plan in result.trainings.items():
        print_result(
            f"{name}: {plan.rows} rows, {plan.steps} steps of {plan.batch_size} rows ({plan.device_rows} per device "
            f"and micro-batch, {plan.accumulation} accumulation steps), {plan.warmup_steps} warm-up steps"
        )
    for name, memory in result.memory.items():
        parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in memory.parts.items() if size)
        print_result(f"{name}: about {format_bytes(memory.total_bytes)} ({parts}); {memory.how}")
    for note in result.notes:
        print_result(f"Note: {note}")
