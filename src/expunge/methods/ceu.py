"""CE-U: teach the model its own prediction with the answer token taken out; no retain rows, no reference."""

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

    The gradient vanishes as p(y) does, so the loss has a floor where gradient ascent has none. Nothing holds the rest
    of the model: with a large rate general answers suffer, and a model of 1B parameters did better in its author's
    hands with 2e-6 for 9 epochs than with 1e-5.
    """

    paper: ClassVar[str] = "Yang 2025, arXiv:2503.01224"

    skip_first: bool = True
    """Leave out the first token of each answer, as the official code does: it is the question's as much as the
    answer's."""

    def loss(self, step: Step) -> LossTerms:
        """Cross-entropy to the model's own prediction without the answer token."""
        from expunge.modeling.step import LossTerms

        values = step.from_logits("forget", ce_u)
        if not self.skip_first:
            return LossTerms({"forget": step.token_mean(values, "forget")})
        rows, counts = step.batches["forget"].rows, step.counts["forget"]
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = rows[1:] != rows[:-1]
        return LossTerms({"forget": values[~first].sum() / max(1.0, counts.tokens - counts.rows)})
