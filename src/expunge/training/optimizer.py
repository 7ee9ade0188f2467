"""Optimisers: those of this package, a check that one can run here, and early allocation of Adam's state."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch

from expunge.distributed import fsdp_enabled
from expunge.errors import IncompatibleError, MissingExtraError


class AdamWUncorrectedEpsilon(torch.optim.AdamW):
    """AdamW whose epsilon is added before bias correction, as in the former `transformers.AdamW`.

    m <- beta1 * m + (1 - beta1) * g,   v <- beta2 * v + (1 - beta2) * g^2
    theta <- (1 - lr * weight_decay) * theta
             - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)

    `torch.optim.AdamW` adds epsilon to sqrt(v / (1 - beta2^t)) instead, so step t equals torch's with
    epsilon / sqrt(1 - beta2^t): 32 times epsilon in the first step, 2.7 times in step 150, with beta2 0.999. This
    matters where gradients are not much larger than epsilon. The former `transformers.AdamW` applied weight decay
    after the update instead of before it, a difference of order lr^2 * weight_decay, and none without decay.

    Args:
        params: Parameters or parameter groups; every parameter of a group has a gradient in every step.
        **settings: Arguments of `torch.optim.AdamW`, such as lr, betas, eps, weight_decay and fused.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        for group in self.param_groups:
            # Part of the group, so that state_dict saves them and a training resumes with the same epsilon.
            group["uncorrected_eps"], group["num_steps"] = group["eps"], 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; see `torch.optim.AdamW.step`."""
        for group in self.param_groups:
            group["num_steps"] += 1
            group["eps"] = group["uncorrected_eps"] / math.sqrt(1 - group["betas"][1] ** group["num_steps"])
        return super().step(closure)  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adamw_uncorrected_epsilon": AdamWUncorrectedEpsilon}
"""Optimisers of this package by name; all other names are those of `transformers.TrainingArguments.optim`."""


def check_optimizer(optimizer: str) -> None:
    """Raise if an optimiser cannot run here.

    Args:
        optimizer: Name in `OPTIMIZERS` or `transformers.TrainingArguments.optim`.

    Raises:
        MissingExtraError: It needs bitsandbytes or torchao, which is not installed.
        IncompatibleError: It is from bitsandbytes and the model is sharded.
    """
    package = ""
    if optimizer.startswith(("paged_", "lion_", "ademamix", "rmsprop_bnb")) or optimizer in {
        "adamw_8bit",
        "adamw_bnb_8bit",
    }:
        package = "bitsandbytes"
    elif optimizer in {"adamw_torch_8bit", "adamw_torch_4bit"}:
        package = "torchao"
    if package == "bitsandbytes" and fsdp_enabled():
        raise IncompatibleError(
            f"the optimiser {optimizer} is from bitsandbytes, which does not support FSDP2 shards.",
            fix="Set train.optimizer=adamw_torch_8bit (torchao) or adamw_torch.",
        )
    if package and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "8bit", f"the optimiser {optimizer}")


def allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Allocate the moments of Adam or AdamW as zeros, before the first step; other optimisers are left unchanged.

    The values are those that the optimiser would allocate itself in its first step. There they would lie between
    blocks that the first backward pass has just freed, and later steps could not reuse that memory in one piece.
    """
    if type(optimizer) not in {torch.optim.Adam, torch.optim.AdamW, AdamWUncorrectedEpsilon}:
        return
    for group in (group for group in optimizer.param_groups if not group["amsgrad"]):
        step_on_device = group["fused"] or group["capturable"]
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if step_on_device else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
