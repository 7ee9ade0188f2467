"""KL minimisation: ascent on the forget answers, while predictions on the retain answers stay as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class KLMin(RetainMethod):
    """TOFU's KL minimisation.

    L = -forget_weight * CE(forget) + retain_weight * KL(pi_ref || pi) on the retain answers

    It keeps the start model's whole prediction on the retain rows, not only the right token. The forget term has no
    lower bound, so a large rate or a long run still ruins the model. Published code takes the KL over every position
    with prompt and padding (`kl_positions: all`).
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121, sec. 4"

    retain: Literal["kl"] = "kl"
    """Always the KL divergence; `graddiff` takes either retain term."""

    def forget_loss(self, step: Step) -> Tensor:
        """Minus the cross-entropy of the forget answers."""
        return -step.nll("forget")
