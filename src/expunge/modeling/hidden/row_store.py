"""Hidden states of rows that come again: kept at their first visit, read at later ones instead of computed.

Below the lowest trained layer a row always gives the same states, and the frozen model's states never change at
all. Nothing is computed in advance, so a training that visits no row twice pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.modeling.batch import TensorBatch, take
from expunge.modeling.hidden.trace import FrozenLayers, layer_trace

GIB = 2**30
_BYTES = 4
"""Of a value between two layers: float32, also under autocast, whose sums with float32 embeddings stay so."""


Visits = Mapping[str, Mapping[int, int]]
"""Per set, how often each row is visited."""


class RowStore:
    """A stated amount of main memory for the hidden states of rows, found by set and index.

    Rows are kept as they come, from their first visit to their last; one that finds no place is computed again.

    Args:
        first: The lowest trained layer; the states that enter it are kept, unless it is the first of all.
        num_bytes: Room.
        visits: Per set, how often each row is visited; a row that is not named is never kept.
        padding: Whether padding's states count too. All padding of a row has the same state, so one is kept.
        widest: Columns up to which that holds, where attention looks back a limited way only; None for any number.
    """

    def __init__(
        self, first: int, num_bytes: float, visits: Visits, *, padding: bool, widest: int | None = None
    ) -> None:
        self.first, self.room = first, num_bytes
        self._padding, self._widest = padding, widest
        self._left = {(name, row): count for name, counts in visits.items() for row, count in counts.items()}
        self._states: dict[tuple[str, int], list[Tensor]] = {}

    def known(self, name: str, rows: Sequence[int], batch: TensorBatch) -> list[bool]:
        """Which rows of a batch can be read at all of the batch's columns."""
        width = batch.input_ids.shape[1]
        sizes = [states[0].shape[0] if (states := self._states.get((name, row))) else 0 for row in rows]
        if not self._padding:
            return [size > 0 for size in sizes]
        narrow = self._widest is None or width <= self._widest
        # A row that was the widest of its batch has no padding's state.
        needed = [min(length + 1, width) for length in _lengths(batch)]
        return [narrow and size >= least for size, least in zip(sizes, needed, strict=True)]

    def keep(self, name: str, rows: Sequence[int], batch: TensorBatch, states: Sequence[Tensor]) -> None:
        """Keep (B, L, D) states of the rows that come again, as far as there is room."""
        for index, (row, length) in enumerate(zip(rows, _lengths(batch), strict=True)):
            parts = [each[index, : length + self._padding].detach() for each in states]
            before = sum(each.nbytes for each in self._states.get((name, row), ()))
            more = sum(part.nbytes for part in parts) - before
            if parts and self.comes_again(name, row) and more <= self.room:
                self.room -= more
                # A view would hold on to the whole batch.
                self._states[name, row] = [part.to("cpu", copy=True) for part in parts]

    def read(self, name: str, rows: Sequence[int], batch: TensorBatch) -> list[Tensor]:
        """(B, L, D) states of known rows, on the batch's device; padding repeats the last state that is kept."""
        columns = torch.arange(batch.input_ids.shape[1])
        kept = [self._states[name, row] for row in rows]
        return [
            torch.stack([part[columns.clamp(max=part.shape[0] - 1)] for part in parts]).to(batch.input_ids.device)
            for parts in zip(*kept, strict=True)
        ]

    def comes_again(self, name: str, row: int) -> bool:
        """Whether a row is still to be visited after this time."""
        return self._left.get((name, row), 0) > 1

    def leave(self, name: str, rows: Sequence[int]) -> None:
        """Count a visit of these rows, and let go of those that do not come again."""
        for row in rows:
            if not self.comes_again(name, row):
                self.room += sum(each.nbytes for each in self._states.pop((name, row), ()))
            elif (name, row) in self._left:
                self._left[name, row] -= 1


def stored_layer(
    model: Any,
    store: RowStore,
    name: str,
    rows: Sequence[int],
    batch: TensorBatch,
    layer: int,
    frozen: FrozenLayers | None = None,
    packed: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(B, L, D) output of a decoder layer, and, given the start's layers, the same with the start's weights.

    Equal to what `layer_trace` and `FrozenLayers.hidden` give: to the last bit for rows in the same company as at
    their first visit, otherwise to rounding, since a matrix product of another shape may add in another order.

    Args:
        model: The bare causal language model.
        store: Where states are read, and kept.
        name: The rows' set.
        rows: Index of each row among all of the set.
        batch: The rows, padded on the right.
        layer: The last layer that is run.
        frozen: The start's layers, where they are compared with.
        packed: Run the rows without their padding.
    """
    known = store.known(name, rows, batch)
    visit = _Visit(model, store, name, layer, frozen, packed)
    parts = []
    for way, run in ((True, visit.read), (False, visit.computed)):
        members = [index for index, each in enumerate(known) if each is way]
        if members:
            part = batch if len(members) == len(rows) else take(batch, members)
            parts.append((members, *run([rows[index] for index in members], part)))
    store.leave(name, rows)
    if len(parts) == 1:
        return parts[0][1:]
    places, hidden, start = zip(*parts, strict=True)
    order = torch.as_tensor(np.argsort(np.concatenate(places)), device=batch.input_ids.device)
    return torch.cat(hidden)[order], None if frozen is None else torch.cat(start)[order]


@dataclass(frozen=True)
class _Visit:
    """What the rows of one micro-batch are run with."""

    model: Any
    store: RowStore
    name: str
    layer: int
    frozen: FrozenLayers | None
    packed: bool

    def read(self, rows: Sequence[int], batch: TensorBatch) -> tuple[Tensor, Tensor | None]:
        """The part of a batch whose states are known."""
        first, states = self.store.first, self.store.read(self.name, rows, batch)
        entering = states[0] if first else None
        trace = layer_trace(self.model, batch, self.layer, packed=self.packed, first=first, entering=entering)
        return trace.hidden, None if self.frozen is None else states[-1]

    def computed(self, rows: Sequence[int], batch: TensorBatch) -> tuple[Tensor, Tensor | None]:
        """The part of a batch that is run from the start, and kept where it comes again."""
        again = any(self.store.comes_again(self.name, row) for row in rows)
        keep_from = None if self.frozen is None else self.frozen.first
        first = self.store.first if again else 0
        trace = layer_trace(self.model, batch, self.layer, keep_from, self.packed, first=first)
        start = None if self.frozen is None else self.frozen.hidden(self.model, trace)
        if again:
            self.store.keep(self.name, rows, batch, [each for each in (trace.entering, start) if each is not None])
        return trace.hidden, start


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
    """The most main memory that a store comes to take: 4 D bytes for each token, twice for rows that are compared.

    Args:
        lengths: Tokens of each row, by set.
        steps: Rows of each optimiser step, by set (`BatchPlan.rows_of`).
        visits: How often each row is visited (`BatchPlan.visits`).
        hidden_size: Width of a hidden state, D.
        first: The lowest trained layer; 0 has nothing below it.
        num_bytes: Room.
        padding: Whether padding's states count too.
        compared: Sets that are compared with the start model.
    """
    kinds = {name: (first > 0) + (name in compared) for name in visits}
    left = {name: dict(counts) for name, counts in visits.items()}
    held = most = 0

    def size(name: str, rows: Iterable[int]) -> int:
        return kinds[name] * sum(lengths[name][row] + padding for row in rows)

    for step in steps:
        for name, counts in visits.items():
            coming = {row for row in step[name] if left[name][row] == counts[row] > 1}
            for row in step[name]:
                left[name][row] -= 1
            held += size(name, coming)
            most = max(most, held)
            held -= size(name, {row for row in step[name] if left[name][row] == 0 and counts[row] > 1})
    return int(min(num_bytes, _BYTES * hidden_size * most))


def widest_padding(model: Any) -> int | None:
    """Columns beyond which padding's state depends on its column: a sliding window's or a chunk's; None for no end."""
    config = model.config.get_text_config()
    limits = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((int(limit) for limit in limits if limit), default=None)


def _lengths(batch: TensorBatch) -> list[int]:
    return [stop - start for start, stop in batch.spans]
