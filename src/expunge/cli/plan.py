"""`expunge plan`: estimate memory and time of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.cli.options import AsJson, Overrides, RecipeName
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.planning.planner import Fit, TrainingCost


def plan(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Estimate memory and time of a recipe.

    Lists the parts of the memory, several GPUs, and which setting to change if it does not fit. Loads no weights.
    """
    from expunge.commands import plan

    with results_only():
        report = plan.plan(recipe, overrides or [])
    if as_json:
        print_json(report)
        return
    for name, cost in report.trainings.items():
        _print(name, cost)
    for line in report.assumptions:
        print_result(f"Assumed: {line}.")


def _print(name: str, cost: TrainingCost) -> None:
    from expunge.planning.memory import format_bytes

    memory, work = cost.memory, cost.workload
    peak = max(memory.moments, key=lambda moment: memory.moments[moment])
    steps = "" if work.steps is None else f", {work.steps} steps"
    print_result(
        f"{name}: {memory.num_trainable:,} of {memory.num_parameters:,} parameters trained{steps}, micro-batches of "
        f"{work.widest.rows} rows ({work.widest.positions:,} tokens), {work.accumulation} accumulation steps"
    )
    rows = [[part, format_bytes(size)] for part, size in memory.parts.items() if size]
    print_columns(["Memory", ""], [*rows, [f"peak ({peak})", format_bytes(memory.total_bytes)]])
    if work.stored_bytes:
        print_result(f"CPU memory: {format_bytes(work.stored_bytes)} of hidden states (method.store_gib)")
    if work.file_bytes:
        print_result(f"File in the run's folder: {format_bytes(work.file_bytes)} of the reference's hidden states")
    print_result("")
    print_columns(["GPU", "Fits", "Per GPU", "Seconds per step", "Change"], [_row(fit) for fit in cost.gpus])
    print_result("")


def _row(fit: Fit) -> list[str]:
    from expunge.planning.memory import format_bytes

    seconds = "-" if fit.seconds_per_step is None else f"{fit.seconds_per_step:.2g}"
    return [fit.gpu, "yes" if fit.fits else "no", format_bytes(fit.total_bytes), seconds, advice(fit)]


def advice(fit: Fit) -> str:
    """Return the changes of settings that make a training fit."""
    if fit.num_gpus is None:
        return "no change that was tried is enough"
    return " ".join([*([f"FSDP over {fit.num_gpus} GPUs"] if fit.num_gpus > 1 else []), *fit.changes])
