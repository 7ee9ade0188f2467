"""`expunge plan`: what a recipe will take, before anything is bought, booked or started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.cli.output import AsJson, Overrides, RecipeName, print_columns, print_json, results_only
from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.planning.planner import Fit, TrainingCost


def plan(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say how much memory and time a recipe takes.

    Part by part, for several GPUs, and which setting to change where it does not fit. No weights are loaded.
    """
    from expunge.commands.plan import plan as make_plan

    with results_only():
        report = make_plan(recipe, overrides or [])
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
    widest = max(memory.moments, key=lambda moment: memory.moments[moment])
    steps = "" if work.steps is None else f", {work.steps} steps"
    print_result(
        f"{name}: {memory.num_trainable:,} of {memory.num_parameters:,} parameters trained{steps}, "
        f"{work.widest.rows} rows at a time ({work.widest.positions:,} tokens), {work.accumulation} times accumulated"
    )
    rows = [[part, format_bytes(size)] for part, size in memory.parts.items() if size]
    print_columns(["Memory", ""], [*rows, [f"widest moment ({widest})", format_bytes(memory.total_bytes)]])
    if work.stored_bytes:
        print_result(f"Beside it, in main memory: {format_bytes(work.stored_bytes)} of hidden states")
    if work.file_bytes:
        print_result(
            f"In a file of the run's folder: {format_bytes(work.file_bytes)} of the start model's hidden states"
        )
    print_result("")
    print_columns(["GPU", "Fits", "Each card", "Seconds per step", "Change"], [_row(fit) for fit in cost.gpus])
    print_result("")


def _row(fit: Fit) -> list[str]:
    from expunge.planning.memory import format_bytes

    seconds = "-" if fit.seconds_per_step is None else f"{fit.seconds_per_step:.2g}"
    return [fit.gpu, "yes" if fit.fits else "no", format_bytes(fit.total_bytes), seconds, advice(fit)]


def advice(fit: Fit) -> str:
    """What to change, in words."""
    if fit.num_gpus is None:
        return "nothing that was tried is enough"
    parts = [*([f"FSDP over {fit.num_gpus} GPUs"] if fit.num_gpus > 1 else []), *fit.changes]
    return " ".join(parts)
