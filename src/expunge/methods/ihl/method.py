"""Settings and loss of IHL, with FILA as an optional initialisation of the adapter."""

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

    The loss is bounded and reaches 0 when the strongest competitor is certain, so the model stays fluent and close to
    the target. Progress is slow on a token that is predicted with certainty, where the gradient through the softmax is
    small. With `fila` and LoRA this is LoKU: the adapter starts from the low-rank part BA of each weight W that
    matters most to the forget rows and least to the retain rows, and W - BA stays frozen; the model's function is
    unchanged at the start.
    """

    paper: ClassVar[str] = "Cha et al. 2024, arXiv:2408.06621"

    fila: bool = False
    """Initialise the adapter (model.lora) with a Fisher-weighted factorisation of the weights. It takes one more pass
    over the forget rows and as many retain rows, and 8 bytes of CPU memory per adapted weight."""

    @model_validator(mode="after")
    def _fila_compares(self) -> IHL:
        if self.fila and self.retain_weight == 0:
            raise ValueError("fila compares forget with retain rows, which retain_weight 0 leaves out")
        return self

    def needs(self) -> Needs:
        """Return forget and retain rows, and whether the adapter starts from parts of the weights."""
        return dataclasses.replace(super().needs(), adapter_parts=self.fila)

    def adapter_parts(
        self, model: Any, sets: Mapping[str, Sequence[Encoded]], seed: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return A and B per adapted module, from the Fisher information of forget and retain rows."""
        from expunge.methods.ihl.fila import fisher_parts

        return fisher_parts(model, sets, seed)

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean inverted hinge loss over the forget tokens."""
        return step.token_mean(step.from_logits("forget", inverted_hinge), "forget")
