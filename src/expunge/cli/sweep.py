"""`expunge sweep`: run many trials of one recipe, and select the best by a stated rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.options import AsJson, Overrides, RunsFolder, work_offline_if_needed
from expunge.cli.output import print_columns, print_json, results_only
from expunge.cli.run import hub_names
from expunge.console import print_result
from expunge.errors import Interrupted

if TYPE_CHECKING:
    from expunge.config.sweep import Sweep
    from expunge.records.sweeps import SweepRecord


def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a packaged sweep, or a YAML file.")],
    overrides: Overrides = None,
    runs: RunsFolder = "runs",
    executor: Annotated[str | None, typer.Option(help="in-process or ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray only: number of parallel trials.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray only: the cluster, such as ray://host:10001.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and list the trials.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run many trials of one recipe and select the best by a stated rule.

    Overrides: over.train.lr=[1e-5, 2e-5], set.seed=1, trials=10, prune=asha. A sweep can be stopped at any time;
    the same command resumes it.
    """
    from expunge.config.sweep import check_trials, load_sweep

    options = {"executor": executor, "workers": workers, "address": address}
    config = load_sweep(
        file, [*(overrides or []), *(f"{name}={value}" for name, value in options.items() if value is not None)]
    )
    if dry_run:
        _list_trials(config, as_json)
        return
    work_offline_if_needed(*hub_names(check_trials(config)[0]))
    from expunge.sweeps import sweep

    with results_only():
        try:
            record = sweep.sweep(config, runs=runs)
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
        f"{sweep.trials or len(recipes)} trials, sampler {sweep.sampler}; selects {sweep.rule.words('trial')}."
    )


def _print(record: SweepRecord) -> None:
    from expunge.report.sweeps.page import header, rank_rows, sentence

    print_columns(header(record), rank_rows(record))
    print_result("")
    print_result(sentence(record))
    front = ", ".join(map(str, record.pareto)) or "none, since no trial has all objectives"
    print_result(f"Pareto front of {' and '.join(record.objectives)}: {front}.")
    if record.saved_steps:
        total = record.saved_steps + record.trained_steps
        print_result(f"Early stopping saved {record.saved_steps} of {total} steps ({record.saved_steps / total:.0%}).")
    print_result(f"Report: {record.folder}/sweep.html")
