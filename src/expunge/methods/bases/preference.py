"""DPO-like methods: prefer another answer over the forget answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from expunge.losses.preference import dpo
from expunge.methods.base import Needs, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step

PREFERRED = "preferred"
"""Name of the set that such a method creates: row i is another answer to the question of forget row i."""


class PreferenceMethod(RetainMethod):
    """DPO with the forget answer as the rejected one; subclasses create the preferred answers in `prepare`."""

    beta: float = Field(default=0.1, gt=0)
    """Inverse temperature."""
    two_over_beta: bool = True
    """Scale the loss by 2 / beta, as in NPO's and later code; off for TOFU's code."""

    def needs(self) -> Needs:
        """Declare pairs of forget and preferred rows, their scalars under the reference, and the retain rows."""
        base, pair = super().needs(), ("forget", PREFERRED)
        return Needs(
            sets=(*pair, *base.sets[1:]),
            reference_logp=pair,
            reference=base.reference,
            aligned=(PREFERRED,),
            created=(PREFERRED,),
            forward=base.forward,
        )

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean over rows of the DPO loss."""
        losses = dpo(
            step.logp(PREFERRED),
            step.reference_logp(PREFERRED),
            step.logp("forget"),
            step.reference_logp("forget"),
            self.beta,
            self.two_over_beta,
        )
        return step.row_mean(losses, "forget")
