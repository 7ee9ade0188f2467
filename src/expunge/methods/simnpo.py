"""SimNPO: NPO without a reference, on the log-probability per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from expunge.losses.preference import simnpo
from expunge.methods.base import RetainMethod

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class SimNPO(RetainMethod):
    """Simple negative preference optimisation.

    L_forget = -(2 / beta) * mean_rows log sigmoid(-(beta / |y|) * log pi(y|x) - gamma)

    |y| is the number of answer tokens, so long answers do not dominate short ones, and no reference is needed. The
    official code writes beta * (-log pi / |y| - gamma) instead, so its gamma is the paper's divided by beta;
    `gamma_form` selects one of the two. The published forget weights (0.1375, 0.125) multiply the forget term, with a
    retain weight of 1.
    """

    paper: ClassVar[str] = "Fan et al. 2024, arXiv:2410.07163, eq. 4"

    beta: float = Field(default=4.5, gt=0)
    """Inverse temperature."""
    gamma: float = Field(default=0.0, ge=0)
    """Margin."""
    gamma_form: Literal["code", "paper"] = "code"
    """Whether gamma is inside the bracket that beta multiplies (official code) or outside (paper)."""

    @model_validator(mode="after")
    def _gamma_form_has_effect(self) -> SimNPO:
        if self.gamma == 0 and self.gamma_form != "code":
            raise ValueError("gamma_form has no effect with gamma 0")
        return self

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean SimNPO loss of the forget rows."""
        losses = simnpo(step.mean_logp("forget"), self.beta, self.gamma, self.gamma_form)
        return step.row_mean(losses, "forget")
