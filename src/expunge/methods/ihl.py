"""IHL: the inverted hinge loss of LoKU, which hands an answer token's probability to its strongest rival."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.losses.margins import inverted_hinge
from expunge.methods._base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class IHL(RetainMethod):
    """Inverted hinge loss.

    L_forget = mean_tokens 1 + p(y) - max_{v != y} p(v)

    Bounded, and it stops where the rival is certain: fluent, and close to the start model. For the same reason it is
    slow on a token that is certain, where the gradient through the softmax is small. LoKU starts its LoRA matrices
    from a Fisher-weighted factorisation of the weights; here they start as in plain LoRA.
    """

    paper: ClassVar[str] = "Cha et al. 2024, arXiv:2408.06621"

    def forget_loss(self, step: Step) -> Tensor:
        """Mean over forget tokens of the inverted hinge loss."""
        return step.token_mean(step.from_logits("forget", inverted_hinge), "forget")
