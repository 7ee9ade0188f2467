"""Base of all audits: an attack that runs on one model at a time, and findings that compare the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.config.members import Member
from expunge.records import AuditResult, Comparison, Value

if TYPE_CHECKING:
    from expunge.probes.session import Session

SampleRow = dict[str, Any]
AUDITED = "unlearned"
CONTROLS = ("target", "retain", "base")
"""Controls: the target knows the forget set; the retain model and the base model never saw it."""


class Audit(Member):
    """Base of all audits; its fields are the audit's settings.

    The same attack runs on the audited model and on every available control, because an attack that also succeeds on
    a model that never saw the forget set has taught the answer, not recovered it.
    """

    def attack(self, session: Session) -> list[SampleRow]:
        """Attack one model and return one row per question and prompt."""
        raise NotImplementedError

    def findings(self, rows: Mapping[str, Sequence[SampleRow]]) -> AuditResult:
        """Compare the models: values per arm, comparisons with the controls, and a verdict in one sentence.

        Args:
            rows: Arm -> rows that `attack` returned; AUDITED is one of the arms.
        """
        raise NotImplementedError


__all__ = ["AUDITED", "CONTROLS", "Audit", "AuditResult", "Comparison", "SampleRow", "Value"]
