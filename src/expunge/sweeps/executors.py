"""Where trials run: one after another in this process, or on a Ray cluster."""

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
    """Trials at a time."""

    def submit(self, sweep: Sweep, trial: Trial, folder: Path) -> None:
        """Start a trial."""

    def next(self) -> Trial:
        """Wait for a trial that has ended."""

    def close(self) -> None:
        """Give everything back."""


def make_executor(sweep: Sweep, runs: Path) -> Executor:
    """The executor that a sweep asks for.

    Raises:
        MissingExtraError: Ray is asked for and not installed.
    """
    if sweep.executor == "ray":
        from expunge.sweeps.ray import OnRay

        return OnRay(sweep, runs)
    return InProcess(runs)


class InProcess:
    """One trial at a time, here."""

    slots = 1

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._ended: list[Trial] = []

    def submit(self, sweep: Sweep, trial: Trial, folder: Path) -> None:
        """Run the trial to its end."""
        self._ended.append(run_trial(sweep, trial, folder, self._runs))
        release_freed_memory()

    def next(self) -> Trial:
        """The trial that was run."""
        return self._ended.pop(0)

    def close(self) -> None:
        """Nothing to give back."""
