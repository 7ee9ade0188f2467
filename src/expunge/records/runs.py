"""What a run writes: training steps, stages, the manifest and the summary."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.records.base import SCHEMA_VERSION, Record, Value
from expunge.records.judgements import Verdict


class TrainPoint(Record):
    """One optimiser step: a line of train.jsonl."""

    step: int
    epoch: float
    """Passes over the forget set so far (fine-tuning: over the training set)."""
    loss: float
    terms: dict[str, float] = Field(default_factory=dict)
    """Weighted parts of the loss, by name."""
    lr: float
    grad_norm: float | None = None
    num_tokens: int = 0
    seconds: float = 0.0


class Stage(Record):
    """A finished stage of a run; its presence means that its output is complete."""

    schema_version: int = SCHEMA_VERSION
    name: str
    fingerprint: str
    output: dict[str, Any] = Field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0


class Overlap(Record):
    """Forget rows that also stand in the retain set, exactly or nearly."""

    num_exact: int = 0
    num_near: int = 0
    examples: list[dict[str, Any]] = Field(default_factory=list)
    how: str = ""


class Manifest(Record):
    """Where the numbers of a run come from."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    fingerprint: str
    created: str
    expunge: str
    packages: dict[str, str] = Field(default_factory=dict)
    git_commit: str = ""
    hardware: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    data_hashes: dict[str, str] = Field(default_factory=dict)
    num_rows: dict[str, int] = Field(default_factory=dict)
    models: dict[str, str] = Field(default_factory=dict)
    """Role -> name or path of the model that played it."""
    effective_batch: dict[str, int] = Field(default_factory=dict)
    stages: list[Stage] = Field(default_factory=list)
    overlap: Overlap | None = None
    notes: list[str] = Field(default_factory=list)
    """What the run noticed and a reader should know."""


class RunSummary(Record):
    """What `run` returns and `report` reads first."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    folder: str
    verdict: Verdict
    selected_step: int
    selected_epoch: float
    selection_rule: str
    headlines: dict[str, dict[str, Value]] = Field(default_factory=dict)
    """Role -> headline -> value."""
    published: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Headline -> {'value', 'source'} as published."""
