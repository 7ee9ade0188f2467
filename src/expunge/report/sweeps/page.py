"""The page about a sweep: the chosen trial, the ranking, the Pareto front and the effect of each setting."""

from __future__ import annotations

from pathlib import Path

import yaml

from expunge.errors import DataError
from expunge.records import Value
from expunge.records.format import format_value
from expunge.records.sweeps import SweepRecord, Trial
from expunge.report.html import render
from expunge.report.sweeps import plots as sweep_plots
from expunge.report.tables import metric_title
from expunge.rundir import read_record, write_atomic


def write_sweep_report(folder: Path) -> Path:
    """Write sweep.html next to the record of a sweep.

    Raises:
        DataError: The folder holds no record of a sweep, or a damaged one.
    """
    path = folder / "sweep.html"
    write_atomic(path, render_sweep(read_sweep(folder)))
    return path


def read_sweep(folder: Path) -> SweepRecord:
    """Read the record of a sweep.

    Raises:
        DataError: There is none, or it is damaged.
    """
    if not (folder / "sweep.json").is_file():
        raise DataError(f"{folder} is not a sweep: it has no sweep.json.", fix="Give a folder such as runs/sweep-NAME.")
    return read_record(folder / "sweep.json", SweepRecord)


def render_sweep(record: SweepRecord) -> str:
    """Return the page."""
    return render(
        "sweep.html.j2",
        title=f"Sweep {record.name}",
        record=record,
        best=record.best,
        sentence=sentence(record),
        header=header(record),
        rows=rank_rows(record),
        titles={name: label.title for name, label in record.labels.items()},
        parts=_parts(record),
        front=sweep_plots.pareto(record),
        effects=sweep_plots.effects(record),
        settings=yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True, width=100),
    )


def _parts(record: SweepRecord) -> dict[str, dict[str, Value]]:
    """Return the columns of the chosen trial's table."""
    best = record.best
    if best is None:
        return {}
    halves = {"The half that chose it": best.chosen_on, "The other half": best.held_out} if best.held_out else {}
    return {
        "Target": record.target,
        "Chosen, all questions": best.headlines,
        **halves,
        "Retain model": record.retain_model,
    }


def sentence(record: SweepRecord) -> str:
    """Return a sentence with the chosen trial, the rule and the number of trials."""
    best = record.best
    counts = f"{record.num_trials} trials"
    parts = [f"{record.num_stopped} stopped early" if record.num_stopped else "",
             f"{record.num_failed} failed" if record.num_failed else ""]  # fmt: skip
    if others := ", ".join(part for part in parts if part):
        counts += f" ({others})"
    if best is None:
        return f"Nothing is chosen: none of {counts} finished."
    return f"Trial {best.number} of {counts} was chosen: {record.rule}."


def params_of(record: SweepRecord) -> list[str]:
    """Return the settings in which trials differ, in the order of the sweep's axes."""
    return list(dict.fromkeys(key for trial in record.trials for key in trial.params))


def header(record: SweepRecord) -> list[str]:
    """Return the column names of the rank table."""
    titles = [metric_title(name, record.labels) for name in record.objectives]
    half = [f"{title}, other half" for title in titles] if _halved(record) else []
    return ["Rank", "Trial", *params_of(record), *titles, *half, "Steps", "State"]


def rank_rows(record: SweepRecord) -> list[list[str]]:
    """Return the rank table: complete trials, best first, then trials that were stopped early or failed."""
    ranks = {number: str(rank) for rank, number in enumerate(record.ranking, start=1)}
    unranked = [trial.number for trial in record.trials if trial.number not in ranks]
    return [_row(record, record.trial(number), ranks.get(number, "")) for number in [*record.ranking, *unranked]]


def _row(record: SweepRecord, trial: Trial, rank: str) -> list[str]:
    absent = Value.missing("a benchmark that reports it")
    shown = trial.chosen_on or trial.headlines
    cells = [format_value(shown.get(name, absent)) if shown else "" for name in record.objectives]
    if _halved(record):
        cells += [
            format_value(trial.held_out.get(name, absent)) if trial.held_out else "" for name in record.objectives
        ]
    state = trial.state + (", on the Pareto front" if trial.number in record.pareto else "")
    params = [plain(trial.params.get(key, "")) for key in params_of(record)]
    return [rank, str(trial.number), *params, *cells, f"{trial.steps} of {trial.planned_steps}", state]


def _halved(record: SweepRecord) -> bool:
    return record.settings.get("choose_on") == "half"


def plain(value: object) -> str:
    """Return a setting as text."""
    return format(value, "g") if isinstance(value, float) else str(value)
