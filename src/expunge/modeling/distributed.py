"""Several processes as one: who am I, wait for the others, share work and join the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


def world_size() -> int:
    """Processes that take part."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def start() -> None:
    """Connect the processes, where a launcher started several."""
    if world_size() > 1:
        import accelerate

        accelerate.PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"})


def wait() -> None:
    """Go on only when every process has come this far."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def agreed(value: T) -> T:
    """What the main process found, for every process.

    Whoever looks later may find a file that the main process has written in the meantime, go another way than the
    others, and leave them waiting for ever.
    """
    if world_size() == 1:
        return value
    import torch.distributed

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def sharded(function: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> list[U]:
    """Apply a function of a list to this process's share and return everybody's results in the order of `items`."""
    if world_size() == 1:
        return list(function(items))
    import torch.distributed

    mine = list(function(items[rank() :: world_size()]))
    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, mine)
    results: list[Any] = [None] * len(items)
    for number, part in enumerate(gathered):
        results[number :: world_size()] = part
    return results
