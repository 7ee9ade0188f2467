"""Check that an optimiser can run here, and allocate Adam's state before the first step."""

from __future__ import annotations

import importlib.util

import torch

from expunge.distributed import fsdp_enabled
from expunge.errors import IncompatibleError, MissingExtraError


def check_optimizer(optimizer: str) -> None:
    """Raise if an optimiser cannot run here.

    Args:
        optimizer: Name in `transformers.TrainingArguments.optim`.

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
    if type(optimizer) not in {torch.optim.Adam, torch.optim.AdamW}:
        return
    for group in (group for group in optimizer.param_groups if not group["amsgrad"]):
        step_on_device = group["fused"] or group["capturable"]
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if step_on_device else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
