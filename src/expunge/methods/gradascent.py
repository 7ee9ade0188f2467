"""Gradient ascent: raise the cross-entropy of the forget answers, with no term that preserves anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.methods.base import Method

if TYPE_CHECKING:
    from expunge.modeling.step import LossTerms, Step


class GradAscent(Method):
    """Gradient ascent on the forget set.

    L = -CE(forget), the mean over all answer tokens of the effective batch

    It forgets quickly. The loss has no lower bound, so the model soon becomes useless: watch the evaluation after each
    epoch, or use a method with a retain term.
    """

    paper: ClassVar[str] = "Jang et al. 2022, arXiv:2210.01504; TOFU baseline: Maini et al. 2024, arXiv:2401.06121"

    def loss(self, step: Step) -> LossTerms:
        """Return minus the cross-entropy of the forget answers."""
        from expunge.modeling.step import LossTerms

        return LossTerms({"forget": -step.nll("forget")})
