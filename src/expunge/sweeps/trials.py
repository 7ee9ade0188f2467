"""One trial of a sweep: a run whose records say how far it came, when it was stopped, and what it found."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from expunge.config.recipe import Recipe
from expunge.config.sweep import Sweep
from expunge.console import note
from expunge.errors import Interrupted, UserError, nearest
from expunge.records.sweeps import Epoch, Trial
from expunge.rundir import read_record, write_record
from expunge.runs.checkpoints import TrainingProgress
from expunge.runs.run import execute
from expunge.sweeps.pruning import falls_behind, watched
from expunge.sweeps.ranking import CannotCompare
from expunge.sweeps.results import completed, epochs_of, relative
from expunge.training.callbacks import StoppedEarly


def trial_place(folder: Path, number: int) -> Path:
    """File of a trial's record."""
    return folder / "trials" / f"{number:04d}.json"


def read_trials(folder: Path) -> list[Trial]:
    """Every trial that has a record, by number."""
    return [read_record(path, Trial) for path in sorted((folder / "trials").glob("[0-9]*.json"))]


def run_trial(sweep: Sweep, trial: Trial, folder: Path, runs: Path) -> Trial:
    """Run one trial to its end, go on with an interrupted one, or take over what is already there.

    Args:
        sweep: The sweep.
        trial: The trial as it stands.
        folder: The sweep's folder.
        runs: Folder of all runs.

    Returns:
        The finished record, which is also on disk. A trial that fails with an error of the user's or runs out of
        memory is recorded as failed.

    Raises:
        CannotCompare: Trials lack what the rule or the pruner compares.
        Interrupted: Ctrl-C; the same call goes on.
    """
    watch = _Watch(sweep, trial, folder, runs)
    recipe = sweep.trial(trial.params)
    try:
        summary = execute(recipe, runs, stop_early=watch, weights=bool(sweep.final))
        done = completed(sweep, watch.trial, recipe, summary, runs)
        check_comparable(done, sweep)
    except StoppedEarly:
        done = watch.trial.model_copy(update={"state": "stopped", "headlines": watch.trial.trajectory[-1].headlines})
    except (CannotCompare, Interrupted):
        write_record(trial_place(folder, trial.number), watch.timed())
        raise
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        note(f"Trial {trial.number} failed: {error}")
        done = watch.trial.model_copy(update={"state": "failed", "error": str(error)})
    done = done.model_copy(update={"seconds": watch.timed().seconds})
    write_record(trial_place(folder, trial.number), done)
    return done


def delete_checkpoint(trial: Trial, runs: Path) -> Trial:
    """Delete a trial's checkpoint and keep its records; `run` with the same recipe makes it again."""
    shutil.rmtree(runs / trial.folder / "checkpoint", ignore_errors=True)
    return trial.model_copy(update={"checkpoint": False})


def check_comparable(trial: Trial, sweep: Sweep) -> None:
    """Refuse a sweep whose trials lack what its rule or its objectives compare.

    Raises:
        CannotCompare: The headline that is missing, and why.
    """
    problems = []
    for name in dict.fromkeys([*sweep.rule.needs, *sweep.objectives]):
        value = trial.chosen_on.get(name)
        if value is None:
            given = ", ".join(sorted(trial.chosen_on)) or "none"
            problems.append(f"{name}: no benchmark gives it. These trials have: {given}.")
        elif value.point is None and name in sweep.rule.needs:
            problems.append(f"{name}: cannot be computed, it needs {value.needs}")
    if problems:
        raise CannotCompare(problems)


def check_headlines(recipe: Recipe, sweep: Sweep) -> None:
    """Raise if the rule or an objective names a headline that no benchmark reports, before anything is run.

    Raises:
        CannotCompare: The headline, and the nearest ones.
    """
    labels = [benchmark.labels() for benchmark in sweep.final or recipe.evaluate.benchmarks]
    if labels and not all(labels):
        return  # A user-defined benchmark need not declare its headlines; the first trial shows them.
    headlines = {name for part in labels for name in part}
    problems = sweep.rule.unknown(headlines)
    problems += [
        f"objectives: '{name}' is not a headline of these benchmarks. {nearest(name, headlines)}".rstrip()
        for name in sweep.objectives
        if name not in headlines and name not in sweep.rule.needs
    ]
    if problems:
        raise CannotCompare(problems)


class _Watch:
    """Writes a trial's record after every epoch and decides whether there is another."""

    def __init__(self, sweep: Sweep, trial: Trial, folder: Path, runs: Path) -> None:
        self.trial = trial
        self._sweep, self._folder, self._runs = sweep, folder, runs
        self._started = time.monotonic()

    def __call__(self, reached: TrainingProgress) -> bool:
        """Whether to stop here."""
        self.trial = self.trial.model_copy(
            update={
                "folder": relative(reached.folder, self._runs),
                "trajectory": epochs_of(reached.results),
                "steps": reached.step,
                "planned_steps": reached.steps,
            }
        )
        write_record(trial_place(self._folder, self.trial.number), self.timed())
        if self._sweep.prune is None:
            return False
        last = self.trial.trajectory[-1] if self.trial.trajectory else None
        if last is None or watched(last, self._sweep) is None:
            raise CannotCompare([_unwatched(last, self._sweep)])
        others = [each for each in read_trials(self._folder) if each.number != self.trial.number]
        behind = falls_behind(self.trial, others, self._sweep)
        if behind:
            note(f"Trial {self.trial.number} is stopped after epoch {last.epoch:g}: it falls behind.")
        return behind

    def timed(self) -> Trial:
        """The record with the seconds spent so far, over all attempts."""
        now = time.monotonic()
        spent = self.trial.seconds + now - self._started
        self._started = now
        self.trial = self.trial.model_copy(update={"seconds": round(spent, 3)})
        return self.trial


def _unwatched(last: Epoch | None, sweep: Sweep) -> str:
    watch = sweep.prune.watch if sweep.prune else None
    names = [watch] if watch else list(sweep.rule.needs)
    for name in names:
        value = last.headlines.get(name) if last else None
        if value is None:
            return f"{name}: no benchmark gives it after an epoch. Set prune.watch to a headline that one gives."
        if value.point is None:
            return f"{name}: needs {value.needs}, so trials cannot be compared after an epoch. Set prune.watch."
    return "trials cannot be compared after an epoch"
