"""UNDIAL: distil the start model into itself with the answer token's logit lowered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.losses.distillation import undial
from expunge.methods.base import Forward, Needs, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class UNDIAL(RetainMethod):
    """Self-distillation with adjusted logits.

    L_forget = mean_tokens -sum_v q(v) * log p(v),  q = softmax(z_ref - beta * onehot(y))

    The target is fixed, so training converges and long runs do not ruin the model; it needs a larger rate (1e-4) than
    the ascent methods, and the official settings use no retain term. A small beta leaves a certain answer the most
    likely one: it has to exceed the answer's logit margin.
    """

    paper: ClassVar[str] = "Dong et al. 2024, arXiv:2402.10052"

    retain_weight: float = Field(default=0.0, ge=0)
    """Weight of the retain term; 0 leaves the retain rows out."""
    beta: float = Field(default=10.0, gt=0)
    """How much the answer token's logit is lowered."""
    positions: Literal["labels", "all"] = "labels"
    """Mean over answer tokens, or over every position but a row's last, prompt and padding included, as published
    code does. That code also lowers one unrelated token where there is no label; this is not repeated."""

    def needs(self) -> Needs:
        """The start model's logits on the forget rows."""
        base = super().needs()
        if self.positions == "all" or base.reference is True:
            return replace(base, reference=True, forward=Forward(padded=True))
        return replace(base, reference=("forget", *(base.reference or ())))

    def forget_loss(self, step: Step) -> Tensor:
        """Cross-entropy to the start model's lowered prediction."""
        values = step.from_logits(
            "forget",
            lambda logits, labels, reference: undial(logits, labels, reference, self.beta),
            positions=self.positions,
            reference=True,
        )
        if self.positions == "labels":
            return step.token_mean(values, "forget")
        predicting = values.view(step.batches["forget"].num_rows, -1)[:, :-1]
        return step.position_mean(predicting, "forget")
