"""PDU: flatten the predictions on forget answers, while a dual variable keeps the retain loss under a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.errors import IncompatibleError
from expunge.losses.margins import logit_margin
from expunge.methods.base import Method, Needs, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import LossTerms, Step


class PDU(Method):
    """Primal-dual unlearning.

    minimise L_f subject to L_r <= epsilon, by  L = forget_weight * L_f + lambda * (L_r - epsilon)
    L_f = mean_tokens (max_v z_v - mean_v z_v)^2,  L_r = CE(retain)
    after each step, once `dual_warmup_epochs` have passed:  lambda <- max(0, lambda + eta * (L_r - epsilon))

    z are the logits. epsilon is the allowed retain loss in nats per token and replaces a retain weight that would have
    to be tuned. If the model cannot reach epsilon, lambda grows without limit and forgetting stalls. The published code
    updates lambda in every micro-batch of every process; here it is one number, updated once per optimiser step. With N
    micro-batches per step, N * eta here moves lambda as far as eta does there.
    """

    paper: ClassVar[str] = "Entesari et al. 2025, arXiv:2506.05314"

    forget_weight: float = Field(default=1.0, gt=0)
    """Weight of the forget term."""
    epsilon: float = Field(default=0.3, ge=0)
    """Upper bound of the retain cross-entropy, in nats per token."""
    lambda_0: float = Field(default=100.0, ge=0)
    """Initial value of the dual variable lambda."""
    eta: float = Field(default=5.0, ge=0)
    """Step size of the dual variable; 0 keeps it constant."""
    dual_warmup_epochs: float = Field(default=5.0, ge=0)
    """Passes over the forget set before the first update of the dual variable."""
    mask_shift: bool = True
    """Take L_f at the positions that predict answer tokens; False takes it one position later, as published code
    does."""

    @model_validator(mode="after")
    def _no_dead_settings(self) -> PDU:
        if self.eta == 0 and changed(self, "dual_warmup_epochs"):
            raise ValueError("dual_warmup_epochs has no effect with eta 0")
        return self

    def needs(self) -> Needs:
        """Return forget and retain rows."""
        return Needs(sets=("forget", "retain"))

    def forget_loss(self, step: Step) -> Tensor:
        """Return the mean squared logit margin of the forget answers."""
        values = step.from_logits(
            "forget", lambda logits, labels: logit_margin(logits), positions="labels" if self.mask_shift else "answers"
        )
        return step.token_mean(values, "forget")

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return the Lagrangian, whose state is the dual variable.

        Raises:
            IncompatibleError: The training is not longer than `dual_warmup_epochs`.
        """
        warmup_steps = int(self.dual_warmup_epochs * steps_per_epoch)
        if self.eta and warmup_steps >= plan_steps:
            raise IncompatibleError(
                f"method.dual_warmup_epochs {self.dual_warmup_epochs:g} ({warmup_steps} steps) is not shorter than the "
                f"training ({plan_steps} steps), so the dual variable would never change.",
                fix="Set a smaller method.dual_warmup_epochs, or method.eta=0 to keep the dual variable constant.",
            )
        return _Lagrangian(self, warmup_steps)


class _Lagrangian(Objective):
    """L = forget_weight * L_f + lambda * (L_r - epsilon), with lambda as its state."""

    def __init__(self, method: PDU, warmup_steps: int) -> None:
        super().__init__(self._lagrangian)
        self._method, self._warmup_steps = method, warmup_steps
        self.dual, self._step = method.lambda_0, 0

    def _lagrangian(self, step: Step) -> LossTerms:
        from expunge.modeling.step import LossTerms

        method, share, retain = self._method, step.share("retain"), step.nll("retain")
        return LossTerms(
            {
                "forget": method.forget_weight * method.forget_loss(step),
                "retain": self.dual * (retain - method.epsilon * share),
            },
            # Logged metrics are summed over the micro-batches of a step, so lambda is multiplied by the share, too.
            metrics={"retain_nll": retain.detach(), "lambda": retain.new_tensor(self.dual * share)},
        )

    def after_step(self, terms: dict[str, float]) -> None:
        """Raise the dual variable where the retain loss exceeds epsilon, lower it otherwise."""
        self._step += 1
        if self._step > self._warmup_steps:
            excess = terms["retain_nll"] - self._method.epsilon
            self.dual = max(0.0, self.dual + self._method.eta * excess)

    def state(self) -> dict[str, Tensor]:
        """Return the dual variable and the number of steps."""
        import torch

        return {"lambda": torch.tensor(self.dual, dtype=torch.float64), "step": torch.tensor(self._step)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the dual variable and the number of steps."""
        self.dual, self._step = float(state["lambda"]), int(state["step"])
