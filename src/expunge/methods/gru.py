"""GRU: gradient rectified unlearning, which removes from the forget gradient what would harm retention."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.distributed import world_size
from expunge.errors import IncompatibleError
from expunge.losses.gradients import rectify
from expunge.losses.preference import npo
from expunge.methods.base import Forward, Method, Needs, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import LossTerms, Step


class GRU(Method):
    """Gradient rectified unlearning.

    g_f = gradient of L_forget,  g_r = gradient of CE(retain),  both over the effective batch
    r <- kappa * g_r + (1 - kappa) * r
    g = g_f - (<g_f, r> / ||r||^2) * r  where <g_f, r> < 0,  else g_f

    The optimiser steps along g only: retain rows exclude directions but add none, so forgetting that does not harm
    retention is not slowed down. This holds to first order and on average; a high learning rate still does harm. It
    takes twice the memory of the trained parameters in addition to their gradient, so LoRA suits it. Every process
    must have the full model (no FSDP, no DeepSpeed).
    """

    paper: ClassVar[str] = "Wang et al. 2025, arXiv:2503.09117"

    forget: Literal["nll", "npo"] = "nll"
    """Forget loss: minus the cross-entropy, or NPO."""
    beta: float = Field(default=0.1, gt=0)
    """Inverse temperature of NPO."""
    kappa: float = Field(default=0.8, gt=0, le=1)
    """Weight of the current step in the smoothed retain gradient r; 1 for no smoothing."""

    @model_validator(mode="after")
    def _beta_has_effect(self) -> GRU:
        if self.forget != "npo" and changed(self, "beta"):
            raise ValueError("beta has no effect unless forget is 'npo'")
        return self

    def needs(self) -> Needs:
        """Return forget and retain rows; for NPO also the forget rows' log-probability under the reference."""
        return Needs(
            sets=("forget", "retain"),
            reference_logp=("forget",) if self.forget == "npo" else (),
            forward=Forward(joint=False),
            # Of the retain rows in this step, and smoothed over the steps.
            kept_gradients=2,
        )

    def forget_loss(self, step: Step) -> Tensor:
        """Return minus the cross-entropy of the forget answers, or their mean NPO loss."""
        if self.forget == "nll":
            return -step.nll("forget")
        return step.row_mean(npo(step.logp("forget"), step.reference_logp("forget"), self.beta), "forget")

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return the forget loss with a rectified gradient.

        Raises:
            IncompatibleError: The model is sharded, so that no process has a full gradient.
        """
        for wrapper in ("FSDP", "DEEPSPEED"):
            if os.environ.get(f"ACCELERATE_USE_{wrapper}", "").lower() == "true":
                raise IncompatibleError(
                    f"gru needs the full gradient in each process, but {wrapper} shards it.",
                    fix=f"Start without {wrapper} (with model.lora if memory is short), or use another method.",
                )
        return _Rectified(self)


class _Rectified(Objective):
    """Forget loss whose gradient is rectified once per optimiser step; its state is the smoothed retain gradient."""

    def __init__(self, method: GRU) -> None:
        super().__init__(self._forget)
        self._method = method
        self._retain_gradient: list[Tensor] | None = None
        """Sum over the micro-batches of the current step."""
        self.smoothed: list[Tensor] | None = None

    def _forget(self, step: Step) -> LossTerms:
        from expunge.modeling.step import LossTerms

        retain_step = step.only("retain")
        retain = retain_step.nll("retain")
        gradient = retain_step.gradient(retain)
        if self._retain_gradient is None:
            self._retain_gradient = gradient
        else:
            torch._foreach_add_(self._retain_gradient, gradient)
        forget = self._method.forget_loss(step.only("forget"))
        return LossTerms({"forget": forget}, metrics={"retain_nll": retain.detach()})

    @torch.no_grad()
    def after_backward(self, model: Any) -> None:
        """Smooth the retain gradient and rectify the forget gradient in place."""
        assert self._retain_gradient is not None, "called after the loss of at least one micro-batch"
        current, self._retain_gradient = self._retain_gradient, None
        if world_size() > 1:
            # DDP averages the forget gradient only.
            for tensor in current:
                torch.distributed.all_reduce(tensor)
        if self.smoothed is None:
            self.smoothed = current
        else:
            kappa = self._method.kappa
            self.smoothed = [
                kappa * new + (1 - kappa) * old.to(new) for new, old in zip(current, self.smoothed, strict=True)
            ]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        for parameter, gradient in zip(trained, rectify(gradients, self.smoothed), strict=True):
            parameter.grad = gradient

    def state(self) -> dict[str, Tensor]:
        """Return the smoothed retain gradient."""
        return {f"retain_gradient.{i:05d}": tensor.contiguous() for i, tensor in enumerate(self.smoothed or [])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the smoothed retain gradient."""
        self.smoothed = [state[key] for key in sorted(state)]
