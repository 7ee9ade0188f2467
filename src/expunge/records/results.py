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


class Comparison(Record):
    """A comparison of one metric between the audited model and a control model, on the same rows."""

    name: str
    """Name of the metric."""
    control: str
    audited_value: float
    control_value: float
    n: int
    """Number of rows scored for both models."""
    p_value: float | None
    """None if no outcome on so few groups could be significant."""
    significant: bool
    """Whether the difference is statistically significant, at the level stated in `sentence`."""
    sentence: str


class AuditResult(Record):
    """The result of one audit of one model and its control models."""

    schema_version: int = SCHEMA_VERSION
    audit: str
    arms: dict[str, str] = Field(default_factory=dict)
    """Arm (audited model or control) -> name or path of its model."""
    values: dict[str, dict[str, Value]] = Field(default_factory=dict)
    """Metric -> arm -> value."""
    comparisons: list[Comparison] = Field(default_factory=list)
    verdict: str
    notes: list[str] = Field(default_factory=list)
    """Caveats for the reader, such as missing control models."""
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: str = ""
    """Parquet file of transcripts, relative to the folder."""
    seconds: float = 0.0
