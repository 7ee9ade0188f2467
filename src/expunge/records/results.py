"""Records of benchmark results, audit results and verdicts."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.records.base import SCHEMA_VERSION, Record, Value
from expunge.records.judgements import Axes, Label, Section

ROLE_NAMES = {
    "target": "target",
    "unlearned": "unlearned model",
    "retain": "retain model",
    "base": "base model",
    "model": "model",
}
"""Role of a model in records -> its name in reports."""


class BenchmarkResult(Record):
    """The result of one benchmark on one model at one training step."""

    schema_version: int = SCHEMA_VERSION
    benchmark: str
    title: str = ""
    """Name of the benchmark in texts, such as 'TOFU'."""
    role: str
    """Role of the model: 'target', 'retain' or 'unlearned', or 'model' outside a run."""
    model: str
    """Name or path of the model."""
    model_hash: str
    """Content hash of the measured weights; empty for a stored log."""
    step: int = 0
    epoch: float = 0.0
    headlines: dict[str, Value] = Field(default_factory=dict)
    """Main metrics, as quoted in papers."""
    metrics: dict[str, Value] = Field(default_factory=dict)
    """Secondary metrics, with keys 'set/metric'."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """Presentation of headlines and metrics, by name."""
    axes: Axes | None = None
    sections: list[Section] = Field(default_factory=list)
    """Parts of the per-sample records that a report shows."""
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: str = ""
    """Parquet file of per-sample records, relative to the run folder."""
    seconds: float = 0.0
