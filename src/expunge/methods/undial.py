"""UNDIAL: distil the reference's predictions with the answer token's logit lowered."""

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

    z_ref are the reference's logits at an answer token y. The distribution q is fixed, so training converges and long
    trainings do not ruin the model; it needs a higher learning rate (1e-4) than the ascent methods. The official
    settings have no retain term. beta has to exceed the answer's logit margin, or else a confident answer stays the
    most likely one.
    """

    paper: ClassVar[str] = "Dong et al. 2024, arXiv:2402.10052"

    retain_weight: float = Field(default=0.0, ge=0)
    """Weight of the retain term; 0 leaves the retain rows out."""
    beta: float = Field(default=10.0, gt=0)
    """Amount by which the answer token's logit is lowered."""
    positions: Literal["labels", "all"] = "labels"
    """Mean over answer tokens, or over every position except a row's last one, prompt and padding included, as
    published code does. That code also lowers an unrelated token at positions without a label, and counts positions on
    in padding; here no token is lowered there, and all padding of a row has the position of its last token."""

    def needs(self) -> Needs:
        """Return the needs of the retain term, and the reference's logits on the forget rows."""
        base = super().needs()
        if self.positions == "all" or base.reference is True:
            return replace(base, reference=True, forward=Forward(padded=True))
        return replace(base, reference=("forget", *(base.reference or ())))

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean cross-entropy to the reference's adjusted prediction."""
        values = step.from_logits(
            "forget",
            lambda logits, labels, reference: undial(logits, labels, reference, self.beta),
            positions=self.positions,
            reference=True,
        )
        if self.positions == "labels":
            return step.token_mean(values, "forget")
        # The last position of a row predicts no token.
        values = values.view(step.batches["forget"].num_rows, -1)[:, :-1]
        return step.position_mean(values, "forget")
