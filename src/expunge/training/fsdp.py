"""Lets the Trainer train a model that is in shards already."""

from __future__ import annotations

from typing import Any

import torch


def keep_shards(accelerator: Any) -> None:
    """Have an accelerator take a model in shards (`modeling.sharding`) as it is, and save its state as one of FSDP2.

    Accelerate itself takes FSDP for GPUs only, and would find the optimiser's parameters by their addresses, which are
    the same for all of which a process holds nothing.

    Args:
        accelerator: What prepares model and optimiser for training.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
        mixed_precision_policy=MixedPrecisionPolicy(),
    )
    # Each state object that accelerate makes later copies the second of these over the first.
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    def prepare(*objects: Any) -> tuple[Any, ...]:
        accelerator._models += [each for each in objects if isinstance(each, torch.nn.Module)]
        # As accelerate does: schedulers come second, since they need the prepared optimiser.
        first = [_prepared(accelerator, each, first_pass=True) for each in objects]
        return tuple(_prepared(accelerator, each) for each in first)

    accelerator._prepare_fsdp2 = prepare


def _prepared(accelerator: Any, each: Any, **settings: Any) -> Any:
    return each if isinstance(each, torch.nn.Module) else accelerator._prepare_one(each, **settings)
