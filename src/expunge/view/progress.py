"""Progress of a run while it trains, from the files that it writes."""

from __future__ import annotations

import statistics
from typing import Any

from expunge.records import TrainPoint
from expunge.records.format import format_value
from expunge.report.load import LoadedRun
from expunge.report.tables import metric_title

STAGES = ("prepare", "target", "retain", "evaluate-target", "unlearn", "report")
"""Stages of a run, in order; `runs.run` records each when it is finished."""
_PLOTTED_POINTS = 400
_TIMED_STEPS = 50
"""Last steps whose median time the remaining time is estimated from."""


def progress(run: LoadedRun) -> dict[str, Any]:
    """Return stages, steps, losses and results after epochs of a run, as plain data for the page.

    The remaining time is the number of remaining steps times the median of the last steps' seconds; measurements after
    epochs come on top. It is None where the training is finished or has not begun.
    """
    train = run.recipe.get("train") or {}
    last = run.train[-1] if run.train else None
    steps = _planned_steps(train, last)
    # A run that was copied may have its summary without the records of its stages.
    finished = run.summary is not None
    done = [stage for stage in STAGES if finished or (run.folder / "stages" / f"{stage}.json").is_file()]
    seconds_left = None
    if last is not None and steps is not None and "unlearn" not in done:
        seconds_left = max(steps - last.step, 0) * statistics.median(p.seconds for p in run.train[-_TIMED_STEPS:])
    return {
        "stages": [{"name": name, "done": name in done} for name in _stages(run)],
        "step": last.step if last else 0,
        "steps": steps,
        "epoch": last.epoch if last else 0.0,
        "epochs": train.get("epochs"),
        "seconds_left": seconds_left,
        "loss": [_point(point) for point in _thinned(run.train)],
        "results": _results(run),
    }


def _stages(run: LoadedRun) -> list[str]:
    """Return the stages that this run has."""
    measures_target = (run.recipe.get("evaluate") or {}).get("before", True)
    return [stage for stage in STAGES if stage != "evaluate-target" or measures_target]


def _planned_steps(train: dict[str, Any], last: TrainPoint | None) -> int | None:
    """Return the steps of the whole training; None where they are not known yet."""
    if train.get("steps"):
        return int(train["steps"])
    epochs = train.get("epochs")
    if not epochs or last is None or not last.epoch:
        return None
    return max(round(last.step * float(epochs) / last.epoch), last.step)


def _thinned(points: list[TrainPoint]) -> list[TrainPoint]:
    """Return evenly spaced points with the last one, no more than a plot can show."""
    stride = -(-len(points) // _PLOTTED_POINTS) or 1
    return points[::-1][::stride][::-1]


def _point(point: TrainPoint) -> dict[str, Any]:
    return {"step": point.step, "epoch": point.epoch, "loss": point.loss, "terms": point.terms}


def _results(run: LoadedRun) -> list[dict[str, Any]]:
    """Return the headlines of the unlearned model after each measured epoch."""
    return [
        {
            "step": result.step,
            "epoch": result.epoch,
            "benchmark": run.title(benchmark),
            "headlines": [
                {"title": metric_title(name, result.labels), "text": format_value(value)}
                for name, value in result.headlines.items()
            ],
        }
        for benchmark in run.benchmarks()
        for result in run.trajectory(benchmark)
    ]
