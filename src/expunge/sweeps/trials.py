"""One trial of a sweep: a run with a record of its progress, its early stop and its results."""

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


def trial_path(folder: Path, number: int) -> Path:
    """Return the file of a trial's record."""
    return folder / "trials" / f"{number:04d}.json"


def read_trials(folder: Path) -> list[Trial]:
    """Return every trial that has a record, by number."""
    return [read_record(path, Trial) for path in sorted((folder / "trials").glob("[0-9]*.json"))]


def run_trial(sweep: Sweep, trial: Trial, folder: Path, runs: Path) -> Trial:
    """Run one trial, resume an interrupted one, or load a finished one.

    Args:
        sweep: The sweep.
        trial: The trial's current record.
        folder: The sweep's folder.
        runs: Folder of all runs.

    Returns:
        The finished record, which is also on disk. A trial that fails with a user error or runs out of memory is
        recorded as failed.

    Raises:
        CannotCompare: Trials lack a headline that the rule or the pruner compares.
        Interrupted: Ctrl-C; the same call resumes.
    """
    watcher = _TrialWatcher(sweep, trial, folder, runs)
    recipe = sweep.trial(trial.params)
    try:
        # A worker of a killed sweep may still run this trial.
        summary = execute(recipe, runs, stop_early=watcher, weights=bool(sweep.final), wait=True)
        done = completed(sweep, watcher.trial, recipe, summary, runs)
        check_comparable(done, sweep)
    except StoppedEarly:
        done = watcher.trial.model_copy(
            update={"state": "stopped", "headlines": watcher.trial.trajectory[-1].headlines}
        )
    except (CannotCompare, Interrupted):
        write_record(trial_path(folder, trial.number), watcher.timed())
        raise
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        note(f"Trial {trial.number} failed: {error}")
        done = watcher.trial.model_copy(update={"state": "failed", "error": str(error)})
    done = done.model_copy(update={"seconds": watcher.timed().seconds})
    write_record(trial_path(folder, trial.number), done)
    return done


def delete_checkpoint(trial: Trial, runs: Path) -> Trial:
    """Delete a trial's checkpoint but not its records; `run` with the same recipe recreates it."""
    shutil.rmtree(runs / trial.folder / "checkpoint", ignore_errors=True)
    return trial.model_copy(update={"checkpoint": False})


def check_comparable(trial: Trial, sweep: Sweep) -> None:
    """Check that a trial has every headline that the rule and the objectives compare.

    Raises:
        CannotCompare: A headline is missing; the message states why.
    """
    problems = []
    for name in dict.fromkeys([*sweep.rule.needs, *sweep.objectives]):
        value = trial.chosen_on.get(name)
        if value is None:
            headlines = ", ".join(sorted(trial.chosen_on)) or "none"
            problems.append(f"{name}: no benchmark reports it. These trials have: {headlines}.")
        elif value.point is None and name in sweep.rule.needs:
            problems.append(f"{name}: not available, it needs {value.needs}")
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


class _TrialWatcher:
    """Writes a trial's record after every epoch and decides whether to stop it."""

    def __init__(self, sweep: Sweep, trial: Trial, folder: Path, runs: Path) -> None:
        self.trial = trial
        self._sweep, self._folder, self._runs = sweep, folder, runs
        self._started = time.monotonic()

    def __call__(self, progress: TrainingProgress) -> bool:
        """Return whether to stop after this epoch."""
        self.trial = self.trial.model_copy(
            update={
                "folder": relative(progress.folder, self._runs),
                "trajectory": epochs_of(progress.results),
                "steps": progress.step,
                "planned_steps": progress.steps,
            }
        )
        write_record(trial_path(self._folder, self.trial.number), self.timed())
        if self._sweep.prune is None:
            return False
        last = self.trial.trajectory[-1] if self.trial.trajectory else None
        if last is None or watched(last, self._sweep) is None:
            raise CannotCompare([_unwatched(last, self._sweep)])
        others = [other for other in read_trials(self._folder) if other.number != self.trial.number]
        behind = falls_behind(self.trial, others, self._sweep)
        if behind:
            note(f"Trial {self.trial.number} is stopped after epoch {last.epoch:g}: it has fallen behind.")
        return behind

    def timed(self) -> Trial:
        """Return the record with the seconds spent so far, over all attempts."""
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
            return f"{name}: no benchmark reports it after an epoch. Set prune.watch to a headline that one reports."
        if value.point is None:
            return f"{name}: needs {value.needs}, so trials cannot be compared after an epoch. Set prune.watch."
    return "trials cannot be compared after an epoch"
