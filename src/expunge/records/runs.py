"""Records of a run: training steps, stages, manifest and summary."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.records.base import SCHEMA_VERSION, Record, Value
from expunge.records.judgements import Verdict


class TrainPoint(Record):
    """One optimiser step, a line of train.jsonl."""

    step: int
    epoch: float
    """Completed passes over the forget set (in fine-tuning, over the training set)."""
    loss: float
    terms: dict[str, float] = Field(default_factory=dict)
    """Weighted terms of the loss, by name."""
    lr: float
    grad_norm: float | None = None
    num_tokens: int = 0
    seconds: float = 0.0


class Stage(Record):
    """A finished stage of a run; if this record exists, the output of the stage is complete."""

    schema_version: int = SCHEMA_VERSION
    name: str
    fingerprint: str
    output: dict[str, Any] = Field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0


class Overlap(Record):
    """Forget rows with exact or near duplicates in the retain set."""

    num_exact: int = 0
    num_near: int = 0
    examples: list[dict[str, Any]] = Field(default_factory=list)
    how: str = ""


class Manifest(Record):
    """The provenance of a run: recipe, code, packages, hardware, data and models."""

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
    """Role -> name or path of its model."""
    effective_batch: dict[str, int] = Field(default_factory=dict)
    stages: list[Stage] = Field(default_factory=list)
    overlap: Overlap | None = None
    notes: list[str] = Field(default_factory=list)
    """Caveats for the reader, noted during the run."""


class RunSummary(Record):
    """The summary of a run, returned by `run` and read by `report`."""

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
    """Headline -> {'value', 'source'} of published results."""
