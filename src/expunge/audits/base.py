"""What every audit has: an attack that is run on one model at a time, and findings that set the models side by side."""

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
"""The target knows what was to be forgotten; the retain model and the never-trained base model never did."""


class Audit(Member):
    """Base of all audits; its fields are the audit's settings.

    The same attack is run on the audited model and on every control that there is, because an attack that
    also works on a model that never knew has taught, not recovered.
    """

    def attack(self, session: Session) -> list[SampleRow]:
        """Attack one model; one record per question and way of asking."""
        raise NotImplementedError

    def findings(self, rows: Mapping[str, Sequence[SampleRow]]) -> AuditResult:
        """Set the models side by side: numbers per arm, comparisons with the controls, and a plain sentence.

        Args:
            rows: Arm -> what `attack` returned for it; AUDITED is among them.
        """
        raise NotImplementedError


__all__ = ["AUDITED", "CONTROLS", "Audit", "AuditResult", "Comparison", "SampleRow", "Value"]
