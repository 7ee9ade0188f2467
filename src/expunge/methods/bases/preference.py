"""Base of the methods that prefer another answer over the forget answer (DPO)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydantic import Field

from expunge.losses.preference import dpo
from expunge.methods.base import Needs, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step

PREFERRED = "preferred"
"""Name of the set of preferred answers; its row i has the question of forget row i."""


class PreferenceMethod(RetainMethod):
    """DPO with the forget answer as the rejected one; subclasses create the preferred answers in `prepare`.

    L_forget = -c * mean_rows log sigmoid(beta * [(log pi(y_w|x) - log pi_ref(y_w|x))
                                                  - (log pi(y|x) - log pi_ref(y|x))])

    y_w is the preferred answer, y the forget answer and pi_ref the reference.
    """

    beta: float = Field(default=0.1, gt=0)
    """Inverse temperature."""
    two_over_beta: bool = True
    """Scale the loss by c = 2 / beta, as NPO and later code do; False for c = 1, as in TOFU's code."""

    def needs(self) -> Needs:
        """Return pairs of forget and preferred rows with their log-probability under the reference, and retain rows."""
        base, pair = super().needs(), ("forget", PREFERRED)
        return dataclasses.replace(
            base,
            sets=(*pair, *base.sets[1:]),
            reference_logp=pair,
            aligned=(PREFERRED,),
            created=(PREFERRED,),
            forward=base.forward,
        )

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean DPO loss of the pairs."""
        losses = dpo(
            step.logp(PREFERRED),
            step.reference_logp(PREFERRED),
            step.logp("forget"),
            step.reference_logp("forget"),
            self.beta,
            self.two_over_beta,
        )
        return step.row_mean(losses, "forget")
