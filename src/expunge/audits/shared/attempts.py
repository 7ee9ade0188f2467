"""Results of an attack on one model, and the names of the models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from expunge.errors import UserError
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
    passes_per_layer: float = 0.0
    """Further passes for each layer of the model."""
    once: float = 0.0
    """Passes that are made once, and not on every model, such as those of models that serve all arms."""
    models: int = 1
    """Models in memory at the same time."""
    training: bool = False
    """Whether a copy is trained, which needs gradients and optimiser states."""


def check_attempts(found: object, where: str) -> list[Attempt]:
    """Return what an attack returned.

    Args:
        found: The return value of `Audit.attack`.
        where: Audit, model and stage, for the message.

    Raises:
        UserError: It is no list of attempts, or a row lacks a column.
    """
    if not isinstance(found, list | tuple) or not all(isinstance(attempt, Attempt) for attempt in found):
        raise UserError(
            f"{where} returned {_described(found)}.",
            allowed="`attack` returns a list of `expunge.audits.Attempt`.",
        )
    for attempt in found:
        for number, row in enumerate(attempt.rows):
            missing = [column for column in ("id", "group", "score") if column not in row]
            if missing:
                raise UserError(
                    f"{where} returned the attempt {attempt.name}, whose row {number} has no '{missing[0]}'.",
                    allowed="A row has an id, a group and a score (None where it cannot be measured).",
                )
    return list(found)


def _described(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, list | tuple):
        other = next(each for each in value if not isinstance(each, Attempt))
        return f"a {kind} with a {type(other).__name__}"
    return "nothing" if value is None else f"a {kind}"
