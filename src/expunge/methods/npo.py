"""NPO: negative preference optimisation, gradient ascent that fades out as forget answers become unlikely."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.losses.preference import npo
from expunge.methods.base import Needs, RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class NPO(RetainMethod):
    """Negative preference optimisation, with a retain term.

    L = forget_weight * L_forget + retain_weight * L_retain
    L_forget = -(2 / beta) * mean_rows log sigmoid(-beta * (log pi(y|x) - log pi_ref(y|x)))

    x is a forget question, y its answer, and log pi(y|x) the sum of the log-probabilities of the answer's tokens
    (`reduce: sum`). pi is the model in training, and pi_ref the reference: the model before unlearning.

    At the start, each row's gradient equals that of gradient ascent; the row's weight then falls to 0 as its answer
    becomes less likely than under the reference. With a small beta, NPO is close to gradient ascent; with a large beta,
    it stops earlier. The forget term needs only one number per row from the reference. It is computed once before
    training, so this term keeps no second model in memory.
    """

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv:2404.05868, eq. 3"

    beta: float = Field(default=0.1, gt=0)
    """Inverse temperature; 0.05 to 0.5 in the paper."""
    reduce: Literal["sum", "mean"] = "sum"
    """How token log-probabilities are combined per answer: sum (paper) or mean (SimNPO's WMDP code)."""

    def needs(self) -> Needs:
        """Declare the needs of the retain term, and the forget rows' log-probabilities under the reference."""
        return dataclasses.replace(super().needs(), reference_logp=("forget",))

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean NPO loss of the forget rows."""
        logp, reference_logp = step.logp("forget"), step.reference_logp("forget")
        if self.reduce == "mean":
            num_tokens = step.batches["forget"].num_answer
            logp, reference_logp = logp / num_tokens, reference_logp / num_tokens
        return step.row_mean(npo(logp, reference_logp, self.beta), "forget")
