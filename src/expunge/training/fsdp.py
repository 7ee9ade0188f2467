"""Let the Trainer train a model that is sharded already."""

from __future__ import annotations

from typing import Any

import torch


def keep_shards(accelerator: Any) -> None:
    """Make an accelerator accept a sharded model (`modeling.fsdp`) as it is, and save its state as FSDP2 does.

    Accelerate supports FSDP on GPUs only. It also maps the optimiser's parameters to sharded ones by their addresses,
    which are equal for all parameters of which a process has no elements.

    Args:
        accelerator: The accelerator that prepares model and optimiser for training.
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
    # Every state object that accelerate creates later copies the shared state of `PartialState`.
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    def prepare_one(item: Any, **settings: Any) -> Any:
        return item if isinstance(item, torch.nn.Module) else accelerator._prepare_one(item, **settings)

    def prepare(*items: Any) -> tuple[Any, ...]:
        accelerator._models += [item for item in items if isinstance(item, torch.nn.Module)]
        # Two passes, as in accelerate: schedulers are prepared second, since they need the prepared optimiser.
        items = tuple(prepare_one(item, first_pass=True) for item in items)
        return tuple(prepare_one(item) for item in items)

    accelerator._prepare_fsdp2 = prepare
