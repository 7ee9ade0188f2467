"""SatImp: gradient ascent on the tokens that are neither forgotten already nor certain anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.losses.likelihood import satimp
from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class SatImp(RetainMethod):
    """Ascent weighted by saturation and importance.

    L_forget = mean_tokens p^beta1 * (1 - p)^beta2 * log p, the weight held constant

    The weight is largest at p = beta1 / (beta1 + beta2), 5/6 by default: it spares words that any sentence of this
    form would hold. On a model that is certain of everything (p near 1 throughout) nothing is pushed and forgetting
    starts slowly. Published weights of the two terms differ: 0.1 and 1 in the code's settings, 1 and 0.1 in its notes;
    the defaults are the former.
    """

    paper: ClassVar[str] = "Yang et al. 2025, arXiv:2505.11953"

    forget_weight: float = Field(default=0.1, gt=0)
    """Weight of the forget term."""
    beta1: float = Field(default=5.0, ge=0)
    """How much less an unlikely token counts."""
    beta2: float = Field(default=1.0, ge=0)
    """How much less a certain token counts."""

    def forget_loss(self, step: Step) -> Tensor:
        """Mean over forget tokens of the weighted log-probability."""
        return step.token_mean(satimp(step.token_logp("forget"), self.beta1, self.beta2), "forget")
