"""WGA: gradient ascent in which tokens count less the more they are forgotten."""

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

    Plain ascent pushes hardest where a token is forgotten already; the weight lets the push on its logit,
    p^beta * (1 - p), fall to 0 with p. It needs no reference model. A small beta comes close to plain ascent and its
    collapse, a large one leaves half-known tokens alone.
    """

    paper: ClassVar[str] = "Wang et al. 2025, arXiv:2502.19301"

    beta: float = Field(default=1.0, gt=0)
    """Strength of the weight."""

    def forget_loss(self, step: Step) -> Tensor:
        """Mean over forget tokens of the weighted log-probability."""
        return step.token_mean(wga(step.token_logp("forget"), self.beta), "forget")
