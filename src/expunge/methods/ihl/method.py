"""IHL: the inverted hinge loss of LoKU, which hands an answer token's probability to its strongest rival."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from expunge.losses.margins import inverted_hinge
from expunge.methods.base import Needs, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.data.templates import Encoded
    from expunge.modeling.step import Step


class IHL(RetainMethod):
    """Inverted hinge loss.

    L_forget = mean_tokens 1 + p(y) - max_{v != y} p(v)

    Bounded, and it stops where the rival is certain: fluent, and close to the start model. For the same reason it is
    slow on a token that is certain, where the gradient through the softmax is small. With `fila` and LoRA this is
    LoKU: the adapter starts from the part BA of each weight that matters most to the forget rows and least to the
    retain rows, and W - BA stays frozen; at the start the model is the same.
    """

    paper: ClassVar[str] = "Cha et al. 2024, arXiv:2408.06621"

    fila: bool = False
    """Start the adapter (model.lora) from a Fisher-weighted factorisation of the weights: one more pass over the forget
    rows and as many retain rows, and 8 bytes of main memory for each adapted weight."""

    @model_validator(mode="after")
    def _fila_compares(self) -> IHL:
        if self.fila and self.retain_weight == 0:
            raise ValueError("fila compares forget with retain rows, which retain_weight 0 leaves out")
        return self

    def needs(self) -> Needs:
        """Forget and retain rows; LoRA, where the adapter has a start of its own."""
        return dataclasses.replace(super().needs(), adapter_parts=self.fila)

    def adapter_parts(
        self, model: Any, sets: Mapping[str, Sequence[Encoded]], seed: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The parts of the weights that matter to the forget rows alone."""
        from expunge.methods.ihl.fila import fisher_parts

        return fisher_parts(model, sets, seed)

    def forget_loss(self, step: Step) -> Tensor:
        """Mean over forget tokens of the inverted hinge loss."""
        return step.token_mean(step.from_logits("forget", inverted_hinge), "forget")
