"""Optimisers: what they need to be there, and Adam's state, made before the first step."""

from __future__ import annotations

import importlib.util

import torch

from expunge.distributed import fsdp_enabled
from expunge.errors import IncompatibleError, MissingExtraError


def check_optimizer(optimizer: str) -> None:
    """Refuse an optimiser that cannot run here.

    Raises:
        MissingExtraError: It is bitsandbytes' or torchao's, which is not installed.
        IncompatibleError: It is bitsandbytes', and the model is in shards.
    """
    bitsandbytes = _is_of_bitsandbytes(optimizer)
    if bitsandbytes and fsdp_enabled():
        raise IncompatibleError(
            f"the optimiser {optimizer} is bitsandbytes', which does not know of FSDP2's shards.",
            fix="Set train.optimizer=adamw_torch_8bit (torchao's), or leave it at adamw_torch.",
        )
    package = (
        "bitsandbytes" if bitsandbytes else "torchao" if optimizer in {"adamw_torch_8bit", "adamw_torch_4bit"} else ""
    )
    if package and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "8bit", f"the optimiser {optimizer}")


def _is_of_bitsandbytes(optimizer: str) -> bool:
    return optimizer.startswith(("paged_", "lion_", "ademamix", "rmsprop_bnb")) or optimizer in {
        "adamw_8bit",
        "adamw_bnb_8bit",
    }


def fill_state(optimizer: torch.optim.Optimizer) -> None:
    """Make Adam's moments now, as zeros, and not in its first step.

    The same numbers; but made in the first step, they would lie between what its backward pass had just freed, for
    good, and later steps would not find that memory in one piece. Other optimisers are left alone.
    """
    if type(optimizer) not in {torch.optim.Adam, torch.optim.AdamW}:
        return
    for group in (each for each in optimizer.param_groups if not each["amsgrad"]):
        on_device = group["fused"] or group["capturable"]
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
