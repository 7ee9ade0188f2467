"""What a sweep writes down: its trials, what they found, and which one the rule chose."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from expunge.records import SCHEMA_VERSION, Label, Record, Value

State = Literal["running", "complete", "stopped", "failed", "duplicate"]


class Epoch(Record):
    """What one measurement during a trial found."""

    step: int
    epoch: float
    headlines: dict[str, Value]


class Trial(Record):
    """One trial: its settings, how far it came, and what it found."""

    schema_version: int = SCHEMA_VERSION
    number: int
    """Place in the order in which trials are drawn, from 0."""
    params: dict[str, Any]
    """Dotted key of the recipe -> value."""
    fingerprint: str
    """Of the trial's recipe."""
    state: State = "running"
    """'complete': trained to its end. 'stopped': ended early, so its numbers are those of an unfinished training and
    it cannot be chosen. 'failed': `error` says why. 'duplicate': the same recipe as an earlier trial."""
    folder: str = ""
    """The run's folder, relative to the folder of all runs."""
    trajectory: list[Epoch] = Field(default_factory=list)
    steps: int = 0
    """Optimiser steps that were trained."""
    planned_steps: int = 0
    headlines: dict[str, Value] = Field(default_factory=dict)
    """Of the kept epoch, on all questions; for a stopped trial, of the last epoch."""
    chosen_on: dict[str, Value] = Field(default_factory=dict)
    """What the rule compares: the headlines, or those of one half of the groups."""
    held_out: dict[str, Value] = Field(default_factory=dict)
    """Headlines of the other half, which the rule never saw; empty unless halves were asked for."""
    samples: str = ""
    """Per-sample records of `headlines`, relative to the folder of all runs."""
    checkpoint: bool = False
    """Whether the weights are still there."""
    seconds: float = 0.0
    error: str = ""


class SweepRecord(Record):
    """A sweep as it stands."""

    schema_version: int = SCHEMA_VERSION
    name: str
    folder: str
    fingerprint: str
    settings: dict[str, Any]
    """The resolved sweep."""
    rule: str
    """What chose, in words and as it really went."""
    objectives: dict[str, str]
    trials: list[Trial] = Field(default_factory=list)
    ranking: list[int] = Field(default_factory=list)
    """Numbers of the complete trials, best first by the rule."""
    pareto: list[int] = Field(default_factory=list)
    """Numbers of the complete trials that no other beats in every objective."""
    num_trials: int = 0
    """Trials that were really run: what a reader must know beside the best of them."""
    num_failed: int = 0
    num_stopped: int = 0
    trained_steps: int = 0
    saved_steps: int = 0
    """Planned steps of stopped trials that were not trained."""
    target: dict[str, Value] = Field(default_factory=dict)
    retain_model: dict[str, Value] = Field(default_factory=dict)
    labels: dict[str, Label] = Field(default_factory=dict)
    """Presentation of the headlines."""
    finished: bool = False
    """Whether the budget is used up or the grid walked."""
    seconds: float = 0.0
    notes: list[str] = Field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The trial that the rule chose."""
        return self.trial(self.ranking[0]) if self.ranking else None

    def trial(self, number: int) -> Trial:
        """A trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)
