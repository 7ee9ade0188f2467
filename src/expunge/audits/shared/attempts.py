"""Results of an attack on one model, and the names of the models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from expunge.records import Cost

SampleRow = dict[str, Any]
AUDITED = "unlearned"
CONTROLS = ("target", "retain", "base")
"""Controls: the target knows the forget set; the retain model and the base model never saw it."""
BEFORE = "before"
"""Name of the attempt that measures the model as it is, without an attack."""


@dataclass(frozen=True)
class Attempt:
    """Result of one setting of an attack on one model."""

    name: str
    """Name of the setting, such as 'int4'; `BEFORE` for the model as it is."""
    rows: list[SampleRow]
    """One entry per row of the forget set: `id`, `group` and `score`, the outcome between 0 and 1 or None where the row
    cannot be measured; further columns, such as `question`, `answer` and `response`, are shown in the report."""
    measure: str = "probability"
    """Meaning of `score`; attempts are compared with the attempt `BEFORE` of the same measure."""
    cost: Cost = field(default_factory=Cost)
    """Expense of the attacker; the runner adds the seconds."""
    utility: float | None = None
    """`Arm.utility` after the attempt; None if the attack leaves the model unchanged."""
    not_counted: str = ""
    """Reason why this attempt is listed but not counted in the verdict; empty if it counts."""
    facts: dict[str, float] = field(default_factory=dict)
    """Further numbers about the attempt."""


@dataclass(frozen=True)
class Workload:
    """Cost of an audit on one model, for `expunge audit --plan`."""

    passes: float
    """Passes over the forget set, as in `Cost.passes`."""
    once: float = 0.0
    """Passes that are made once, and not on every model, such as those of models that serve all arms."""
    models: int = 1
    """Models in memory at the same time."""
    training: bool = False
    """Whether a copy is trained, which needs gradients and optimiser states."""
