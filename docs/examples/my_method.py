"""Bounded ascent: gradient ascent that stops at a chosen loss. An example of a user-defined method.

Use it with `method: {name: docs/examples/my_method.py, ceiling: 4.0}`; `expunge show docs/examples/my_method.py`
explains it like a packaged one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.methods import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.methods import Step


class BoundedAscent(RetainMethod):
    """Raise the loss of each forget answer, but not beyond a ceiling.

    L_forget = mean_rows max(0, ceiling - (-log pi(y|x) / |y|))
    """

    paper: ClassVar[str] = "none: an example"

    ceiling: float = Field(default=4.0, gt=0)
    """Mean loss per token, in nats, at which an answer counts as forgotten."""

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean distance of the answers from the ceiling."""
        distance = (self.ceiling + step.mean_logp("forget")).clamp(min=0)
        return step.row_mean(distance, "forget")
