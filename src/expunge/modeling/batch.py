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

INFERENCE_TOKENS = 2048
"""Padded tokens per forward pass of computations before training. Larger batches overflow the CPU cache and are no
faster; on a GPU they could need more memory than training does."""


def length_batches(rows: Sequence[Encoded], max_tokens: int) -> list[list[int]]:
    """Group row indices into batches of similar length with at most `max_tokens` padded tokens.

    A row that is longer than that is a batch of its own.
    """
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
    """A `TokenBatch` as tensors on one device, with the same fields and shapes."""

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    positions: Tensor
    labels: Tensor
    num_answer: Tensor
    spans: tuple[Span, ...]
    """Columns of each row's tokens, on the CPU so that reading them does not synchronise the device."""

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
        """Return a copy of the batch on another device."""
        tensors: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    @property
    def num_rows(self) -> int:
        """Number of rows, B."""
        return int(self.num_answer.shape[0])


def join(batches: list[TensorBatch]) -> TensorBatch:
    """Concatenate batches, padded on the right to the longest row."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)

    def widen(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, length - tensor.shape[1]))

    offsets = np.cumsum([0] + [batch.num_rows for batch in batches])
    return TensorBatch(
        input_ids=torch.cat([widen(batch.input_ids) for batch in batches]),
        attention_mask=torch.cat([widen(batch.attention_mask) for batch in batches]),
        rows=torch.cat([batch.rows + int(offset) for batch, offset in zip(batches, offsets, strict=False)]),
        positions=torch.cat([batch.positions for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        num_answer=torch.cat([batch.num_answer for batch in batches]),
        spans=tuple(span for batch in batches for span in batch.spans),
    )


def take(batch: TensorBatch, indices: Sequence[int]) -> TensorBatch:
    """Return the rows of a batch with the given ascending indices, without changing their width."""
    selected = torch.as_tensor(indices, device=batch.input_ids.device)
    new_index = torch.full((batch.num_rows,), -1, device=selected.device)
    new_index[selected] = torch.arange(len(indices), device=selected.device)
    is_selected = new_index[batch.rows] >= 0
    return TensorBatch(
        input_ids=batch.input_ids[selected],
        attention_mask=batch.attention_mask[selected],
        rows=new_index[batch.rows[is_selected]],
        positions=batch.positions[is_selected],
        labels=batch.labels[is_selected],
        num_answer=batch.num_answer[selected],
        spans=tuple(batch.spans[index] for index in indices),
    )
