"""CE-U: train the model on its own prediction with the answer token removed; no retain rows, no reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from expunge.losses.distillation import ce_u
from expunge.methods.base import Method

if TYPE_CHECKING:
    from expunge.modeling.step import LossTerms, Step


class CEU(Method):
    """Cross-entropy unlearning.

    L = mean_tokens -sum_v q(v) * log p(v),  q = softmax(z with z_y = -infinity), held constant

    z are the logits at an answer token y and p their softmax. The gradient vanishes with p(y), so the loss is bounded
    below, unlike gradient ascent. Nothing preserves other behaviour: with a high learning rate, general answers get
    worse. For a model of 1B parameters the author reports better results with 2e-6 for 9 epochs than with 1e-5.
    """

    paper: ClassVar[str] = "Yang 2025, arXiv:2503.01224"

    skip_first: bool = True
    """Leave out the first token of each answer, as the official code does, because it depends on the question as much
    as on the answer."""

    def loss(self, step: Step) -> LossTerms:
        """Return the cross-entropy to the model's prediction without the answer token."""
        from expunge.modeling.step import LossTerms

        values = step.from_logits("forget", ce_u)
        if not self.skip_first:
            return LossTerms({"forget": step.token_mean(values, "forget")})
        rows, counts = step.batches["forget"].rows, step.counts["forget"]
        is_first = torch.ones_like(rows, dtype=torch.bool)
        is_first[1:] = rows[1:] != rows[:-1]
        # One token less per row than `token_mean` would divide by.
        return LossTerms({"forget": values[~is_first].sum() / max(1.0, counts.tokens - counts.rows)})
