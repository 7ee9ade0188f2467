"""Gradient difference: ascent on the forget answers, descent on the retain answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class GradDiff(RetainMethod):
    """Gradient difference.

    L = -forget_weight * CE(forget) + retain_weight * L_retain

    With `retain: kl` this is TOFU's KL minimisation. The forget term has no lower bound, so a high learning rate or a
    long training still ruins the model.
    """

    paper: ClassVar[str] = "Liu et al. 2022, arXiv:2203.12817; as used in Maini et al. 2024, arXiv:2401.06121, sec. 4"

    def forget_loss(self, step: Step) -> Tensor:
        """Return minus the cross-entropy of the forget answers."""
        return -step.nll("forget")
