"""Several processes as one: who am I, wait for the others, share work and join the results."""

from __future__ import annotations

import datetime
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from expunge.errors import IncompatibleError, Interrupted, UserError

T = TypeVar("T")
U = TypeVar("U")
_PATIENCE = datetime.timedelta(hours=6)
"""How long processes wait for one that reads or writes a large model."""
_turns: list[weakref.WeakMethod[Callable[[], None]]] = []
"""For each model in shards, what runs along while another process runs it."""
_apart = False
"""Whether processes have work of their own just now."""


def world_size() -> int:
    """Processes that take part."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def fsdp_enabled() -> bool:
    """Whether the launcher asks for FSDP: that a model in training is shared out over the processes."""
    return _is_on("ACCELERATE_USE_FSDP")


def start() -> None:
    """Connect the processes, where a launcher started several.

    Raises:
        UserError: The launcher asks for sharding of a kind that does not work here.
    """
    if fsdp_enabled():
        _check_sharding()
        # Otherwise transformers fills a model in the main process only, and the others would measure empty weights.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        # Read where the processes are connected: whole states travel through main memory.
        os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"
    if world_size() > 1:
        import accelerate

        accelerate.PartialState(cpu=_is_on("ACCELERATE_USE_CPU"), timeout=_PATIENCE)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in {"1", "true", "yes"}


def _check_sharding() -> None:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("only FSDP2 is supported.", fix="Start with: accelerate launch --use_fsdp --fsdp_version 2 ...")
    if world_size() == 1:
        raise UserError(
            "FSDP shares a model out over processes, and there is only one.",
            fix="Start more (accelerate launch --num_processes), or leave out --use_fsdp.",
        )
    if _is_on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError(
            "FSDP's own activation checkpointing is not supported.", fix="Set model.gradient_checkpointing: true."
        )
    if _is_on("FSDP_OFFLOAD_PARAMS"):
        raise UserError(
            "FSDP's offloading of weights to main memory is not supported.",
            fix="Leave out --fsdp_offload_params; use more processes, or model.lora.",
        )


def refuse_fsdp(method: str, why: str) -> None:
    """Refuse FSDP for a method that cannot work with it.

    Raises:
        IncompatibleError: The launcher asks for it.
    """
    if fsdp_enabled():
        raise IncompatibleError(
            f"{method} {why}, but FSDP splits the model over processes.",
            fix="Start it without, with model.lora if memory is short and the method takes it, or choose another.",
        )


def wait() -> None:
    """Go on only when every process has come this far."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def broadcast_from_main(value: T) -> T:
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


def from_main(work: Callable[[], T]) -> T:
    """What the main process makes, for every process; its error, too, so that nobody is left waiting."""
    outcome: tuple[T | None, Exception | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (work(), None)
        except (UserError, Interrupted) as error:
            outcome = (None, error)
    value, failure = broadcast_from_main(outcome)
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def full_tensor(tensor: Any) -> Any:
    """A tensor that may be in shards, gathered from every process."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def map_over_ranks(function: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> list[U]:
    """Apply a function of a list to this process's share and return everybody's results in the order of `items`.

    The function may run a model in shards, which takes every process: one that is done runs along until all are.
    """
    if world_size() == 1:
        return list(function(items))
    import torch.distributed

    mine = _with_turns(lambda: list(function(items[rank() :: world_size()])))
    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, mine)
    results: list[Any] = [None] * len(items)
    for number, part in enumerate(gathered):
        results[number :: world_size()] = part
    return results


def take_turns(follow: Callable[[], None]) -> int:
    """Register a model in shards.

    Args:
        follow: Method that runs its decoder once, on anything.

    Returns:
        Its number, the same in every process, for `announce`.
    """
    _turns.append(weakref.WeakMethod(follow))
    return len(_turns)


def announce(number: int) -> None:
    """Tell the others which model in shards is run next, where they may have nothing left to do."""
    if _apart:
        _agree_on(number)


def _with_turns(work: Callable[[], T]) -> T:
    global _apart
    if not fsdp_enabled():
        return work()
    _apart = True
    try:
        result = work()
        while number := _agree_on(0):
            follow = _turns[number - 1]()
            assert follow is not None, "a model that one process runs is kept by all"
            follow()
    finally:
        _apart = False
    return result


def _agree_on(number: int) -> int:
    """The model that is run next in any process; 0 when all are done."""
    import accelerate
    import torch.distributed

    largest = torch.tensor(number, device=accelerate.PartialState().device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    chosen = int(largest)
    assert number in {0, chosen}, "processes with work of their own run one model in shards at a time"
    return chosen
