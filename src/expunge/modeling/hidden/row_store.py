"""CPU cache of hidden states that do not change during a training, by set and row.

Below the lowest trained layer a row has the same hidden states in every epoch, and the frozen weights' hidden states
never change. Nothing is computed in advance, so a training that visits no row twice pays nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.data.collate import collate
from expunge.errors import IncompatibleError
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import MODEL_ERRORS, length_limits, text_config, trial_rows
from expunge.modeling.hidden.trace import layer_trace
from expunge.modeling.types import CausalLM

GIB = 2**30
_BYTES = 4
"""Bytes per stored value: hidden states between layers are float32, also under autocast."""
_WINDOWS = re.compile(r"\w*(window|window_size|attention_chunk_size|local_attention)")
"""Names of settings that limit how far attention reaches."""


Visits = Mapping[str, Mapping[int, int]]
"""How often each row is visited, by set."""


class RowStore:
    """A CPU cache of limited size for hidden states of rows, by set and row index.

    Rows are stored as they arrive, from their first visit to their last. A row that does not fit is computed again.

    Args:
        first: Lowest trained layer, whose input is stored unless it is layer 0.
        num_bytes: Size limit.
        visits: How often each row is visited, by set; rows that are not listed are never stored.
        padding: Whether hidden states of padding count too. All padding of a row has the same state, so one is stored.
        widest: Number of columns up to which that holds, where attention has a limited range; None for no limit.
    """

    def __init__(
        self, first: int, num_bytes: float, visits: Visits, *, padding: bool, widest: int | None = None
    ) -> None:
        self.first, self.room = first, num_bytes
        self._padding, self._widest = padding, widest
        self._visits_left = {(name, row): count for name, counts in visits.items() for row, count in counts.items()}
        self._states: dict[tuple[str, int], list[Tensor]] = {}

    def contains(self, name: str, rows: Sequence[int], batch: TensorBatch) -> list[bool]:
        """Return which rows of a batch are stored for all columns of the batch."""
        width = batch.input_ids.shape[1]
        sizes = [states[0].shape[0] if (states := self._states.get((name, row))) else 0 for row in rows]
        if not self._padding:
            return [size > 0 for size in sizes]
        in_range = self._widest is None or width <= self._widest
        # A row that was the longest of its batch was stored without a padding state.
        needed = [min(length + 1, width) for length in _lengths(batch)]
        return [in_range and size >= least for size, least in zip(sizes, needed, strict=True)]

    def keep(self, name: str, rows: Sequence[int], batch: TensorBatch, states: Sequence[Tensor]) -> None:
        """Store (B, L, D) states of those rows that are visited again and fit."""
        for index, (row, length) in enumerate(zip(rows, _lengths(batch), strict=True)):
            views = [tensor[index, : length + self._padding].detach() for tensor in states]
            replaced = sum(tensor.nbytes for tensor in self._states.get((name, row), ()))
            growth = sum(view.nbytes for view in views) - replaced
            if views and self.visited_again(name, row) and growth <= self.room:
                self.room -= growth
                # A view would keep the whole batch in memory.
                self._states[name, row] = [view.to("cpu", copy=True) for view in views]

    def read(self, name: str, rows: Sequence[int], batch: TensorBatch) -> list[Tensor]:
        """Return the (B, L, D) states of stored rows on the batch's device; padding repeats the last stored state."""
        columns = torch.arange(batch.input_ids.shape[1])
        stored = [self._states[name, row] for row in rows]
        return [
            torch.stack([tensor[columns.clamp(max=tensor.shape[0] - 1)] for tensor in tensors]).to(
                batch.input_ids.device
            )
            for tensors in zip(*stored, strict=True)
        ]

    def visited_again(self, name: str, row: int) -> bool:
        """Return whether a row will be visited after the current visit."""
        return self._visits_left.get((name, row), 0) > 1

    def count_visit(self, name: str, rows: Sequence[int]) -> None:
        """Count a visit of these rows, and drop those that are not visited again."""
        for row in rows:
            if not self.visited_again(name, row):
                self.room += sum(tensor.nbytes for tensor in self._states.pop((name, row), ()))
            elif (name, row) in self._visits_left:
                self._visits_left[name, row] -= 1


@torch.no_grad()
def can_store(model: CausalLM, first: int, layer: int, padding: bool, longest: int = 0) -> bool:
    """Return whether stored hidden states of a row can be reused in a batch with other rows, by a trial run.

    They cannot if layers are random (dropout), if a layer uses more of an earlier layer than its output, or, with
    `padding`, if the state of padding depends on its column.

    Args:
        model: The model.
        first: The lowest trained layer.
        layer: The last layer that is run.
        padding: Whether the states of padding are used too.
        longest: Tokens of the longest row. The trial has such a row if the model may treat as many tokens differently.
    """
    device = next(model.parameters()).device
    is_limited = length_limits(model, 9, longest)
    rows = trial_rows(model, (longest, longest // 2, 7) if is_limited else (9, 5, 7))
    narrow, wide = (TensorBatch.of(collate(rows, 0, extra_padding=extra), device) for extra in (1, 4))
    store = RowStore(first, math.inf, {"": {0: 2, 1: 2, 2: 2}}, padding=padding)
    training = model.training
    # Training mode, in which dropout is active.
    model.train()
    try:
        with torch.random.fork_rng():
            trace = layer_trace(model, narrow, layer, first=first)
            store.keep("", range(3), narrow, [state for state in (trace.entering, trace.hidden) if state is not None])
            states = store.read("", range(3), wide)
            plain = layer_trace(model, wide, layer).hidden
            entering = states[0] if first else None
            resumed = layer_trace(model, wide, layer, first=first, entering=entering).hidden
    except (*MODEL_ERRORS, IncompatibleError):
        # A layer needs more of an earlier layer than its output, such as its keys and values.
        return False
    finally:
        model.train(training)
    mask = torch.ones_like(wide.attention_mask) if padding else wide.attention_mask
    exact = next(model.parameters()).dtype not in {torch.bfloat16, torch.float16}
    tolerance = (1e-4 if exact else 5e-2) * plain.float().abs().max()
    return all(
        float((result - plain)[mask.bool()].float().abs().max()) <= tolerance for result in (resumed, states[-1])
    )


def store_bytes(
    lengths: Mapping[str, Sequence[int]],
    steps: Iterable[Mapping[str, Sequence[int]]],
    visits: Visits,
    *,
    hidden_size: int,
    first: int,
    num_bytes: float,
    padding: bool,
    compared: Sequence[str] = ("retain",),
) -> int:
    """Return the most CPU memory that a store will use.

    4 D bytes per token for the input of the lowest trained layer, and as much for the frozen hidden states of compared
    rows.

    Args:
        lengths: Tokens of each row, by set.
        steps: Rows of each optimiser step, by set (`BatchPlan.rows_of`).
        visits: How often each row is visited (`BatchPlan.visits`).
        hidden_size: Width of a hidden state, D.
        first: Lowest trained layer; below layer 0 there is nothing to store.
        num_bytes: Size limit.
        padding: Whether hidden states of padding count too.
        compared: Sets whose frozen hidden states are stored.
    """
    states_per_token = {name: (first > 0) + (name in compared) for name in visits}
    left = {name: dict(counts) for name, counts in visits.items()}
    stored = most = 0

    def size(name: str, rows: Iterable[int]) -> int:
        return states_per_token[name] * sum(lengths[name][row] + padding for row in rows)

    for step in steps:
        for name, counts in visits.items():
            arriving = {row for row in step[name] if left[name][row] == counts[row] > 1}
            for row in step[name]:
                left[name][row] -= 1
            stored += size(name, arriving)
            most = max(most, stored)
            stored -= size(name, {row for row in step[name] if left[name][row] == 0 and counts[row] > 1})
    return int(min(num_bytes, _BYTES * hidden_size * most))


def widest_padding(model: Any) -> int | None:
    """Return the number of columns beyond which the hidden state of padding depends on its column; None for no limit.

    Sliding-window and chunked attention have such a limit.
    """
    settings = vars(text_config(model.config)).items()
    limits = (value for name, value in settings if _WINDOWS.fullmatch(name) and isinstance(value, int))
    return min((limit for limit in limits if limit), default=None)


def _lengths(batch: TensorBatch) -> list[int]:
    return [stop - start for start, stop in batch.spans]
