"""GRU: gradient rectified unlearning, which takes out of the forget gradient what would undo retention."""

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

    The optimiser steps along g alone: the retain rows only forbid directions, so forgetting that costs nothing is not
    held back. The promise is to first order and on average; a large rate still does harm. Takes twice the memory of
    the trained parameters on top of their gradient, so LoRA suits it, and works with one process per model copy (no
    FSDP, no DeepSpeed).
    """

    paper: ClassVar[str] = "Wang et al. 2025, arXiv:2503.09117"

    forget: Literal["nll", "npo"] = "nll"
    """Forget loss: minus the cross-entropy, or NPO."""
    beta: float = Field(default=0.1, gt=0)
    """NPO's inverse temperature."""
    kappa: float = Field(default=0.8, gt=0, le=1)
    """Share of the present step in the smoothed retain gradient; 1 does not smooth."""

    @model_validator(mode="after")
    def _beta_has_effect(self) -> GRU:
        if self.forget != "npo" and changed(self, "beta"):
            raise ValueError("beta has no effect unless forget is 'npo'")
        return self

    def needs(self) -> Needs:
        """Forget and retain rows, and NPO's scalars where it is chosen."""
        return Needs(
            sets=("forget", "retain"),
            reference_logp=("forget",) if self.forget == "npo" else (),
            forward=Forward(joint=False),
        )

    def forget_loss(self, step: Step) -> Tensor:
        """Minus the cross-entropy of the forget answers, or their NPO loss."""
        if self.forget == "nll":
            return -step.nll("forget")
        return step.row_mean(npo(step.logp("forget"), step.reference_logp("forget"), self.beta), "forget")

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """The forget loss, with a rectified gradient."""
        for wrapper in ("FSDP", "DEEPSPEED"):
            if os.environ.get(f"ACCELERATE_USE_{wrapper}", "").lower() == "true":
                raise IncompatibleError(
                    f"gru compares whole gradients, but {wrapper} splits them over processes.",
                    fix="Start it without, with model.lora if memory is short, or choose another method.",
                )
        return _Rectified(self)


class _Rectified(Objective):
    """The forget loss; the retain gradient is gathered beside it and joins once per optimiser step."""

    def __init__(self, method: GRU) -> None:
        super().__init__(self._forget)
        self._method = method
        self._gathered: list[Tensor] | None = None
        self.smoothed: list[Tensor] | None = None

    def _forget(self, step: Step) -> LossTerms:
        from expunge.modeling.step import LossTerms

        apart = step.only("retain")
        retain = apart.nll("retain")
        gradient = apart.gradient(retain)
        if self._gathered is None:
            self._gathered = gradient
        else:
            torch._foreach_add_(self._gathered, gradient)
        forget = self._method.forget_loss(step.only("forget"))
        return LossTerms({"forget": forget}, metrics={"retain_nll": retain.detach()})

    @torch.no_grad()
    def after_backward(self, model: Any) -> None:
        """Smooth the retain gradient and rectify the forget gradient in place."""
        assert self._gathered is not None, "called after the loss of at least one micro-batch"
        present, self._gathered = self._gathered, None
        if world_size() > 1:
            for tensor in present:
                torch.distributed.all_reduce(tensor)
        kappa, before = self._method.kappa, self.smoothed
        self.smoothed = (
            present
            if before is None
            else [kappa * now + (1 - kappa) * old.to(now) for now, old in zip(present, before, strict=True)]
        )
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        for parameter, gradient in zip(trained, rectify(gradients, self.smoothed), strict=True):
            parameter.grad = gradient

    def state(self) -> dict[str, Tensor]:
        """The smoothed retain gradient."""
        return {f"retain_gradient.{i:05d}": tensor.contiguous() for i, tensor in enumerate(self.smoothed or [])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.smoothed = [state[key] for key in sorted(state)]
