"""Batches of encoded rows on a device, grouped by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.collate import TokenBatch
from expunge.data.templates import Encoded
from expunge.modeling.packing import Span

ONCE_TOKENS = 2048
"""Padded tokens per forward pass for what is computed once. More would gain nothing on a processor, whose cache they
leave, and on a GPU they could come to need more memory than the training does."""


def length_batches(rows: Sequence[Encoded], max_tokens: int) -> list[list[int]]:
    """Indices of rows in batches of similar length, each of at most `max_tokens` padded tokens."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids), reverse=True)
    batches: list[list[int]] = []
    for index in order:
        width = len(rows[batches[-1][0]].ids) if batches else 0
        if batches and width * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@dataclass(frozen=True)
class TensorBatch:
    """A `TokenBatch` as tensors on one device; same fields, same shapes."""

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    positions: Tensor
    labels: Tensor
    num_answer: Tensor
    spans: tuple[Span, ...]
    """Where each row's tokens are, known without asking the device."""

    @classmethod
    def of(cls, batch: TokenBatch, device: torch.device | str) -> TensorBatch:
        """Copy a padded batch to a device."""

        def move(array: np.ndarray[Any, Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            input_ids=move(batch.input_ids),
            attention_mask=move(batch.attention_mask),
            rows=move(batch.rows),
            positions=move(batch.positions),
            labels=move(batch.labels),
            num_answer=move(batch.num_answer),
            spans=tuple((int(np.argmax(row)), int(np.argmax(row) + row.sum())) for row in batch.attention_mask),
        )

    def to(self, device: torch.device) -> TensorBatch:
        """The same on another device."""
        tensors: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    @property
    def num_rows(self) -> int:
        """Rows of the batch, B."""
        return int(self.num_answer.shape[0])


def join(batches: list[TensorBatch]) -> TensorBatch:
    """One batch of all rows of several, padded on the right to the longest."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)

    def widen(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, length - tensor.shape[1]))

    offsets = np.cumsum([0] + [batch.num_rows for batch in batches])
    return TensorBatch(
        input_ids=torch.cat([widen(batch.input_ids) for batch in batches]),
        attention_mask=torch.cat([widen(batch.attention_mask) for batch in batches]),
        rows=torch.cat([batch.rows + int(o) for batch, o in zip(batches, offsets, strict=False)]),
        positions=torch.cat([batch.positions for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        num_answer=torch.cat([batch.num_answer for batch in batches]),
        spans=tuple(span for batch in batches for span in batch.spans),
    )


def take(batch: TensorBatch, members: Sequence[int]) -> TensorBatch:
    """Some rows of a batch, named in ascending order, as wide as they are in it."""
    chosen = torch.as_tensor(members, device=batch.input_ids.device)
    place = torch.full((batch.num_rows,), -1, device=chosen.device)
    place[chosen] = torch.arange(len(members), device=chosen.device)
    answers = place[batch.rows] >= 0
    return TensorBatch(
        input_ids=batch.input_ids[chosen],
        attention_mask=batch.attention_mask[chosen],
        rows=place[batch.rows[answers]],
        positions=batch.positions[answers],
        labels=batch.labels[answers],
        num_answer=batch.num_answer[chosen],
        spans=tuple(batch.spans[index] for index in members),
    )
