"""Process-group helpers: rank, barrier, broadcast, and work split over ranks."""

from __future__ import annotations

import datetime
import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.errors import IncompatibleError, Interrupted, UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
U = TypeVar("U")
_TIMEOUT = datetime.timedelta(hours=6)
"""Timeout of collectives, during which a rank may read or write a large model."""
_dummy_passes: list[weakref.WeakMethod[Callable[[], None]]] = []
"""Per sharded model, the method that runs its decoder while another rank needs it."""
_independent = False
"""Whether ranks currently work on different items, inside `map_over_ranks` with FSDP."""


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the rank of this process, starting at 0."""
    return int(os.environ.get("RANK", "0"))


def fsdp_enabled() -> bool:
    """Return whether the launcher enabled FSDP, which shards models over the processes."""
    return _is_on("ACCELERATE_USE_FSDP")


def start() -> None:
    """Initialise the process group if a launcher started several processes.

    Raises:
        UserError: The launcher's FSDP settings are not supported.
    """
    if fsdp_enabled():
        _check_fsdp_settings()
        # Otherwise transformers loads the weights on rank 0 only, and the other ranks would measure empty ones.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        # Accelerate reads this during initialisation; full state dicts are gathered in CPU memory.
        os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"
    if world_size() > 1:
        import accelerate

        accelerate.PartialState(cpu=_is_on("ACCELERATE_USE_CPU"), timeout=_TIMEOUT)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in {"1", "true", "yes"}


def _check_fsdp_settings() -> None:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("only FSDP2 is supported.", fix="Start with: accelerate launch --use_fsdp --fsdp_version 2 ...")
    if world_size() == 1:
        raise UserError(
            "FSDP needs at least two processes, and there is only one.",
            fix="Start more (accelerate launch --num_processes), or leave out --use_fsdp.",
        )
    if _is_on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError(
            "FSDP's activation checkpointing is not supported.", fix="Set model.gradient_checkpointing: true."
        )
    if _is_on("FSDP_OFFLOAD_PARAMS"):
        raise UserError(
            "FSDP's offloading of weights to CPU memory is not supported.",
            fix="Leave out --fsdp_offload_params; use more processes, or model.lora.",
        )


def refuse_fsdp(method: str, reason: str) -> None:
    """Raise if FSDP is enabled, for a method that does not support it.

    Args:
        method: Name of the method.
        reason: Why it needs an unsharded model, as a predicate: "computes ...".

    Raises:
        IncompatibleError: FSDP is enabled.
    """
    if fsdp_enabled():
        raise IncompatibleError(
            f"{method} {reason}, but FSDP shards the model over processes.",
            fix="Run without FSDP (set model.lora if memory is short and the method supports it), "
            "or choose another method.",
        )


def wait() -> None:
    """Block until every process has reached this call."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def broadcast_from_main(value: T) -> T:
    """Return rank 0's value on every rank.

    Use it for decisions that depend on files: rank 0 may create a file before another rank checks for it, and ranks
    that take different branches deadlock at the next collective.
    """
    if world_size() == 1:
        return value
    import torch.distributed

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def run_on_main(function: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank.

    A `UserError` or `Interrupted` is raised on every rank too, so that no rank waits for a result forever.
    """
    outcome: tuple[T | None, Exception | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (function(), None)
        except (UserError, Interrupted) as error:
            outcome = (None, error)
    value, error_on_main = broadcast_from_main(outcome)
    if error_on_main is not None:
        raise error_on_main
    return value  # type: ignore[return-value]


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor: a sharded one is gathered from all ranks, any other is returned as it is."""
    if hasattr(tensor, "full_tensor"):
        gathered: Tensor = tensor.full_tensor()
        return gathered
    return tensor


def map_over_ranks(function: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> list[U]:
    """Apply a function of a list to this rank's share of `items` and return all results in the order of `items`.

    The function may run a sharded model. As FSDP needs all ranks for each forward pass, ranks that have finished run
    dummy passes until every rank has finished.
    """
    global _independent
    if world_size() == 1:
        return list(function(items))
    import torch.distributed

    _independent = fsdp_enabled()
    try:
        local_results = list(function(items[rank() :: world_size()]))
        while fsdp_enabled() and (number := _max_over_ranks(0)):
            dummy_pass = _dummy_passes[number - 1]()
            assert dummy_pass is not None, "a model that one rank runs exists on every rank"
            dummy_pass()
    finally:
        _independent = False
    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, local_results)
    results: list[Any] = [None] * len(items)
    for source_rank, rank_results in enumerate(gathered):
        results[source_rank :: world_size()] = rank_results
    return results


def register_sharded_model(dummy_pass: Callable[[], None]) -> int:
    """Register a sharded model for `map_over_ranks`.

    Args:
        dummy_pass: Bound method that runs the model's decoder once, on any input.

    Returns:
        The model's number for `announce_forward`, equal on every rank and at least 1.
    """
    _dummy_passes.append(weakref.WeakMethod(dummy_pass))
    return len(_dummy_passes)


def announce_forward(number: int) -> None:
    """Announce a forward pass of a sharded model, so that ranks that have finished their share join it.

    Has an effect only inside `map_over_ranks`; everywhere else all ranks run the same passes anyway.
    """
    if _independent:
        _max_over_ranks(number)


def _max_over_ranks(number: int) -> int:
    """Return the number of the model that any rank runs next, or 0 once all ranks have finished."""
    import accelerate
    import torch.distributed

    largest = torch.tensor(number, device=accelerate.PartialState().device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    result = int(largest)
    assert number in {0, result}, "inside map_over_ranks, all ranks run the same sharded model"
    return result
