"""KL minimisation: ascent on the forget answers, with predictions on the retain answers held to the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class KLMin(RetainMethod):
    """TOFU's KL minimisation.

    L = -forget_weight * CE(forget) + retain_weight * KL(pi_ref || pi) on the retain answers

    The KL term preserves the reference's full distribution over the vocabulary on the retain rows, not only the right
    token. The forget term has no lower bound, so a high learning rate or a long training still ruins the model.
    Published code takes the KL over every position, prompt and padding included (`kl_positions: all`).
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121, sec. 4"

    retain: Literal["kl"] = "kl"
    """Always the KL divergence; `graddiff` has both retain terms."""

    def forget_loss(self, step: Step) -> Tensor:
        """Return minus the cross-entropy of the forget answers."""
        return -step.nll("forget")
