"""Base of all audits: an attack that runs on one model at a time, and findings that compare the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.audits.shared.attempts import AUDITED, BEFORE, CONTROLS, Attempt, SampleRow, Workload
from expunge.config.members import Member
from expunge.records import AuditResult, Cost, Value

if TYPE_CHECKING:
    from expunge.audits.shared.arm import Arm
    from expunge.audits.shared.findings import Rule
    from expunge.data.sets import Sets


class Audit(Member):
    """Base of all audits; its fields are the audit's settings.

    The same attack runs on the audited model and on every available control, because an attack that also succeeds on
    a model that never saw the forget set has taught the answer, not recovered it.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Controls without which the attack cannot run, such as 'target' where it combines two models."""
    uses: ClassVar[tuple[str, ...]] = ()
    """Controls that the attack on another arm also uses where given; a stage is repeated if one of them is replaced."""
    arms: ClassVar[tuple[str, ...]] = (AUDITED, *CONTROLS)
    """Arms on which the attack runs."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the names of the parts of the attack; each is saved when it is done, so that a killed audit resumes.

        Raises:
            DataError: The attack cannot run on this data.
        """
        return [self.key]

    def stages_on(self, role: str, sets: Sets) -> list[str]:
        """Return the stages that run on one arm: by default all of them on every arm.

        An attack that trains models which serve all arms trains them in stages of one arm; `calibrate` sees them all.

        Args:
            role: The arm.
            sets: Data of the audit.
        """
        return self.stages(sets)

    def controls_needed(self) -> tuple[str, ...]:
        """Return the controls without which the attack cannot run: `needs`, unless a setting decides."""
        return self.needs

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Run one part of the attack on one model.

        Args:
            arm: The model.
            stage: One of `stages_on` this arm.
        """
        raise NotImplementedError

    def workload(self, sets: Sets) -> Workload:
        """Return what the audit will cost on one model."""
        return Workload(passes=float(len(self.stages(sets))))

    def calibrate(self, attempts: Mapping[str, Sequence[Attempt]]) -> Mapping[str, Sequence[Attempt]]:
        """Return the attempts with the scores that depend on several models, such as a threshold's.

        `attack` sees one model at a time. Findings and transcripts are both made of what this returns.

        Args:
            attempts: Arm -> attempts that `attack` returned; AUDITED is one of the arms.
        """
        return attempts

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Compare the models: values per arm, the effect of each attempt, and a verdict in one sentence.

        Args:
            attempts: Arm -> attempts that `attack` returned; AUDITED is one of the arms.
            rule: Margin, level and utility bound of the conclusions.
        """
        from expunge.audits.shared.findings import compare_arms

        return compare_arms(self.key, self.calibrate(attempts), rule, self.spec())


__all__ = [
    "AUDITED",
    "BEFORE",
    "CONTROLS",
    "Attempt",
    "Audit",
    "AuditResult",
    "Cost",
    "SampleRow",
    "Value",
    "Workload",
]
