"""Base of all audits: an attack that runs on one model at a time, and findings that compare the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.config.members import Member
from expunge.records import AuditResult, Comparison, Cost, Value

if TYPE_CHECKING:
    from expunge.audits.shared.arm import Arm
    from expunge.audits.shared.findings import Rule
    from expunge.data.sets import Sets

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
    models: int = 1
    """Models in memory at the same time."""
    training: bool = False
    """Whether a copy is trained, which needs gradients and optimiser states."""


class Audit(Member):
    """Base of all audits; its fields are the audit's settings.

    The same attack runs on the audited model and on every available control, because an attack that also succeeds on
    a model that never saw the forget set has taught the answer, not recovered it.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Controls without which the attack cannot run, such as 'target' where it combines two models."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Controls that the attack on another arm also uses where given; a stage is repeated if one of them is replaced."""
    arms: ClassVar[tuple[str, ...]] = (AUDITED, *CONTROLS)
    """Arms on which the attack runs."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the names of the parts of the attack; each is saved when it is done, so that a killed audit resumes.

        Raises:
            DataError: The attack cannot run on this data.
        """
        return [self.key]

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Run one part of the attack on one model.

        Args:
            arm: The model.
            stage: One of `stages`.
        """
        raise NotImplementedError

    def workload(self, sets: Sets) -> Workload:
        """Return what the audit will cost on one model."""
        return Workload(passes=float(len(self.stages(sets))))

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Compare the models: values per arm, the effect of each attempt, and a verdict in one sentence.

        Args:
            attempts: Arm -> attempts that `attack` returned; AUDITED is one of the arms.
            rule: Margin, level and utility bound of the conclusions.
        """
        from expunge.audits.shared.findings import compare_arms

        return compare_arms(self.key, attempts, rule, self.spec())


__all__ = [
    "AUDITED",
    "BEFORE",
    "CONTROLS",
    "Attempt",
    "Audit",
    "AuditResult",
    "Comparison",
    "Cost",
    "SampleRow",
    "Value",
    "Workload",
]
