"""SatImp: gradient ascent weighted towards tokens that are neither forgotten already nor predicted with certainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.losses.likelihood import satimp
from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class SatImp(RetainMethod):
    """Gradient ascent weighted by saturation and importance.

    L_forget = mean_tokens p^beta1 * (1 - p)^beta2 * log p, the weight held constant

    p is the probability of an answer token. The weight is largest at p = beta1 / (beta1 + beta2), which is 5/6 by
    default, so words that fit any sentence of this form (p near 1) are spared. On a model that is confident of
    everything, all weights are near 0 and forgetting starts slowly. Published weights of the two terms disagree: the
    code's settings have forget_weight 0.1 and retain_weight 1, its notes have 1 and 0.1; the defaults are the former.
    """

    paper: ClassVar[str] = "Yang et al. 2025, arXiv:2505.11953"

    forget_weight: float = Field(default=0.1, gt=0)
    """Weight of the forget term."""
    beta1: float = Field(default=5.0, ge=0)
    """Exponent of p: a larger value reduces the weight of unlikely tokens."""
    beta2: float = Field(default=1.0, ge=0)
    """Exponent of 1 - p: a larger value reduces the weight of confidently predicted tokens."""

    def forget_loss(self, step: Step) -> Tensor:
        """Return the weighted mean log-probability of the forget tokens."""
        return step.token_mean(satimp(step.token_logp("forget"), self.beta1, self.beta2), "forget")
