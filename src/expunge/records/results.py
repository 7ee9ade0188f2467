"""Results of benchmarks and audits, and the verdict."""

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
"""Role of a model in records -> its name in texts."""


class BenchmarkResult(Record):
    """What one benchmark found about one model at one moment."""

    schema_version: int = SCHEMA_VERSION
    benchmark: str
    title: str = ""
    """Name of the benchmark in texts, such as 'TOFU'."""
    role: str
    """'target', 'retain', 'unlearned', or 'model' outside a run."""
    model: str
    """Name or path of the model."""
    model_hash: str
    """Content hash of the weights that were scored; empty for a stored log."""
    step: int = 0
    epoch: float = 0.0
    headlines: dict[str, Value] = Field(default_factory=dict)
    """The few numbers that papers quote."""
    metrics: dict[str, Value] = Field(default_factory=dict)
    """Everything else, keyed 'set/metric'."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """Presentation of headlines and metrics, by name."""
    axes: Axes | None = None
    sections: list[Section] = Field(default_factory=list)
    """What a report shows of the per-sample records."""
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: str = ""
    """Per-sample records: a Parquet file relative to the run folder."""
    seconds: float = 0.0


class Comparison(Record):
    """One number of the audited model against the same number of a control, on the same rows."""

    name: str
    """Which number."""
    control: str
    audited_value: float
    control_value: float
    n: int
    """Rows that were scored for both."""
    p_value: float
    significant: bool
    """Whether the difference is more than chance explains, at the level that `sentence` names."""
    sentence: str


class AuditResult(Record):
    """What one attack found about one model and its controls."""

    schema_version: int = SCHEMA_VERSION
    audit: str
    arms: dict[str, str] = Field(default_factory=dict)
    """Arm -> name or path of its model."""
    values: dict[str, dict[str, Value]] = Field(default_factory=dict)
    """Number -> arm -> value."""
    comparisons: list[Comparison] = Field(default_factory=list)
    verdict: str
    notes: list[str] = Field(default_factory=list)
    """What a reader should know, such as controls that were not there."""
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: str = ""
    """Transcripts: a Parquet file relative to the folder."""
    seconds: float = 0.0
