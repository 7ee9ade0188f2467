"""Records of a sweep: its trials, their results, and their ranking by the selection rule."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from expunge.records import SCHEMA_VERSION, Label, Record, Value

State = Literal["running", "complete", "stopped", "failed", "duplicate"]


class Epoch(Record):
    """The result of one measurement during a trial."""

    step: int
    epoch: float
    headlines: dict[str, Value]


class Trial(Record):
    """One trial: its settings, progress and results."""

    schema_version: int = SCHEMA_VERSION
    number: int
    """Index in the order in which trials are sampled, from 0."""
    params: dict[str, Any]
    """Dotted key of the recipe -> value."""
    fingerprint: str
    """Fingerprint of the trial's recipe."""
    state: State = "running"
    """State of the trial. 'complete': trained to the end. 'stopped': stopped early, so it is excluded from the ranking.
    'failed': `error` states why. 'duplicate': the same recipe as an earlier trial."""
    folder: str = ""
    """Folder of the run, relative to the folder of all runs."""
    trajectory: list[Epoch] = Field(default_factory=list)
    steps: int = 0
    """Completed optimiser steps."""
    planned_steps: int = 0
    headlines: dict[str, Value] = Field(default_factory=dict)
    """Headlines on all questions: of the selected epoch, or of the last one for a stopped trial."""
    chosen_on: dict[str, Value] = Field(default_factory=dict)
    """Headlines that the selection rule compares: on all groups, or on the first half."""
    held_out: dict[str, Value] = Field(default_factory=dict)
    """Headlines on the other half, which selection does not use; empty unless the sweep splits the groups."""
    samples: str = ""
    """Per-sample records of `headlines`, relative to the folder of all runs."""
    checkpoint: bool = False
    """Whether the weights still exist on disk."""
    seconds: float = 0.0
    error: str = ""


class SweepRecord(Record):
    """The current state of a sweep."""

    schema_version: int = SCHEMA_VERSION
    name: str
    folder: str
    fingerprint: str
    settings: dict[str, Any]
    """Resolved settings of the sweep."""
    rule: str
    """Description of the selection rule as it was applied."""
    objectives: dict[str, str]
    trials: list[Trial] = Field(default_factory=list)
    ranking: list[int] = Field(default_factory=list)
    """Numbers of the complete trials, best first by the selection rule."""
    pareto: list[int] = Field(default_factory=list)
    """Numbers of the complete trials on the Pareto front."""
    num_trials: int = 0
    """Number of trials run, duplicates excluded. Reports state it, since the best of many looks better than it is."""
    num_failed: int = 0
    num_stopped: int = 0
    trained_steps: int = 0
    saved_steps: int = 0
    """Planned optimiser steps that stopped trials did not run."""
    target: dict[str, Value] = Field(default_factory=dict)
    retain_model: dict[str, Value] = Field(default_factory=dict)
    labels: dict[str, Label] = Field(default_factory=dict)
    """Presentation of the headlines."""
    finished: bool = False
    """Whether the budget is used up or the grid is complete."""
    seconds: float = 0.0
    notes: list[str] = Field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """Return the best trial by the selection rule, or None before any is complete."""
        return self.trial(self.ranking[0]) if self.ranking else None

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)
