"""NPO: negative preference optimisation, gradient ascent with a brake."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.losses.preference import npo
from expunge.methods.base import Needs, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class NPO(RetainMethod):
    """Negative preference optimisation.

    L_forget = -(2 / beta) * mean_rows log sigmoid(-beta * (log pi(y|x) - log pi_ref(y|x)))

    log pi(y|x) is the sum over the answer's tokens and pi_ref the model at the start, which is run once over the
    forget set; only one number per row is kept. Small beta acts like gradient ascent; large beta stops early.
    """

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv:2404.05868, eq. 3"

    beta: float = Field(default=0.1, gt=0)
    """Inverse temperature; the paper uses 0.05 to 0.5."""
    reduce: Literal["sum", "mean"] = "sum"
    """Log-probability of an answer as the sum over its tokens (the paper) or their mean (SimNPO's WMDP code)."""

    def needs(self) -> Needs:
        """Forget scalars under the start model, besides what the retain term needs."""
        return replace(super().needs(), reference_logp=("forget",))

    def forget_loss(self, step: Step) -> Tensor:
        """Mean over rows of the NPO loss."""
        logp, reference = step.logp("forget"), step.reference_logp("forget")
        if self.reduce == "mean":
            num_answer = step.batches["forget"].num_answer
            logp, reference = logp / num_answer, reference / num_answer
        return step.row_mean(npo(logp, reference, self.beta), "forget")
