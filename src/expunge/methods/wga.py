"""WGA: weighted gradient ascent, in which tokens have less weight the more they are forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.losses.likelihood import wga
from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class WGA(RetainMethod):
    """Weighted gradient ascent.

    L_forget = mean_tokens p^beta * log p, the weight p^beta held constant

    p is the probability of an answer token. Plain gradient ascent pushes hardest on tokens that are forgotten already;
    with the weight, the push on a token's logit, p^beta * (1 - p), falls to 0 with p. No reference is needed. A small
    beta comes close to plain ascent and its collapse, a large one leaves half-known tokens unchanged.
    """

    paper: ClassVar[str] = "Wang et al. 2025, arXiv:2502.19301"

    beta: float = Field(default=1.0, gt=0)
    """Exponent of the weight."""

    def forget_loss(self, step: Step) -> Tensor:
        """Return the weighted mean log-probability of the forget tokens."""
        return step.token_mean(wga(step.token_logp("forget"), self.beta), "forget")
