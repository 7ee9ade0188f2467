"""`expunge sweep`: many trials of one recipe, and the best by a stated rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.logging import stay_local
from expunge.cli.output import AsJson, Overrides, RunsFolder, print_columns, print_json, results_only
from expunge.cli.run import asks_hub
from expunge.console import print_result
from expunge.errors import Interrupted

if TYPE_CHECKING:
    from expunge.config.sweep import Sweep
    from expunge.records.sweeps import SweepRecord


def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A packaged sweep's name or a YAML file.")],
    overrides: Overrides = None,
    runs: RunsFolder = "runs",
    executor: Annotated[str | None, typer.Option(help="in-process or ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray: trials at a time.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray: the cluster, such as ray://host:10001.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and list the trials.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run many trials of one recipe and choose the best by a stated rule.

    Settings on top: over.train.lr=[1e-5, 2e-5], set.seed=1, trials=10, prune=asha. Stop it at any time; the same
    command goes on.
    """
    from expunge.config.sweep import check_trials, load_sweep

    given = {"executor": executor, "workers": workers, "address": address}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    loaded = load_sweep(file, [*(overrides or []), *options])
    if dry_run:
        _list_trials(loaded, as_json)
        return
    if asks_hub(check_trials(loaded)[0]):
        stay_local()
    from expunge.sweeps.sweep import sweep as run_sweep

    with results_only():
        try:
            record = run_sweep(loaded, runs=runs)
        except Interrupted as error:
            raise Interrupted(f"in {runs}") from error
    print_json(record) if as_json else _print(record)


def _list_trials(sweep: Sweep, as_json: bool) -> None:
    from expunge.config.sweep import check_trials

    recipes = check_trials(sweep)
    if as_json:
        print_json({"sweep": sweep.resolved(), "num_recipes": len(recipes)})
        return
    from expunge.report.sweeps.page import plain

    if sweep.sampler == "grid":
        rows = [[str(number), *map(plain, params.values())] for number, params in enumerate(sweep.grid())]
        print_columns(["Trial", *sweep.over], rows)
    print_result(
        f"{sweep.trials or len(recipes)} trials, drawn by {sweep.sampler}; chosen: {sweep.rule.words('trial')}."
    )


def _print(record: SweepRecord) -> None:
    from expunge.report.sweeps.page import header, rank_rows, sentence

    print_columns(header(record), rank_rows(record))
    print_result("")
    print_result(sentence(record))
    front = ", ".join(map(str, record.pareto)) or "none, since no trial has them all"
    print_result(f"Pareto front of {' and '.join(record.objectives)}: {front}.")
    if record.saved_steps:
        total = record.saved_steps + record.trained_steps
        print_result(f"Stopping early saved {record.saved_steps} of {total} steps ({record.saved_steps / total:.0%}).")
    print_result(f"Report: {record.folder}/sweep.html")
