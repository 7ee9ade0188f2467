"""Executors of trials: one after another in this process, or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from expunge.config.sweep import Sweep
from expunge.modeling.peak_memory import release_freed_memory
from expunge.records.sweeps import Trial
from expunge.sweeps.trials import run_trial


class Executor(Protocol):
    """Runs trials; their records are on disk when `next` returns them."""

    slots: int
    """Number of trials that run at the same time."""

    def submit(self, sweep: Sweep, trial: Trial, folder: Path) -> None:
        """Start a trial."""

    def next(self) -> Trial:
        """Wait for a trial to finish and return it."""

    def close(self) -> None:
        """Release all resources."""


def make_executor(sweep: Sweep, runs: Path) -> Executor:
    """Return the executor of a sweep.

    Raises:
        MissingExtraError: The executor is Ray, which is not installed.
    """
    if sweep.executor == "ray":
        from expunge.sweeps.ray import OnRay

        return OnRay(sweep, runs)
    return InProcess(runs)


class InProcess:
    """Runs one trial at a time in this process."""

    slots = 1

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._finished: list[Trial] = []

    def submit(self, sweep: Sweep, trial: Trial, folder: Path) -> None:
        """Run the trial until it finishes."""
        self._finished.append(run_trial(sweep, trial, folder, self._runs))
        release_freed_memory()

    def next(self) -> Trial:
        """Return the trial that was run."""
        return self._finished.pop(0)

    def close(self) -> None:
        """No-op: nothing to release."""
