"""Pad encoded rows to a batch and index their answer tokens.

Masks are built from row lengths, never from token ids: the padding token may be the end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from expunge.data.templates import NO_LABEL, Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenBatch:
    """A padded batch and the flat list of its answer tokens.

    Shapes: B rows, L tokens in the longest row, N answer tokens in all rows together.
    """

    input_ids: NDArray[np.int64]
    """(B, L) token ids; padding is `pad_id`, whose value does not affect any result."""
    attention_mask: NDArray[np.int64]
    """(B, L) 1 on tokens and 0 on padding; an end-of-sequence token inside a row counts as a token."""
    rows: NDArray[np.int64]
    """(N,) row index of each answer token."""
    positions: NDArray[np.int64]
    """(N,) position that predicts each answer token, one before the token."""
    labels: NDArray[np.int64]
    """(N,) ids of the answer tokens."""
    num_answer: NDArray[np.int64]
    """(B,) number of answer tokens per row."""

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self.num_answer)


def collate(
    rows: Sequence[Encoded], pad_id: int, side: Literal["right", "left"] = "right", extra_padding: int = 0
) -> TokenBatch:
    """Pad rows to the length of the longest one.

    Args:
        rows: Encoded rows, at least one.
        pad_id: Token id of the padding.
        side: Side on which rows are padded.
        extra_padding: Number of additional padding columns. They must not change any result; tests use them.
    """
    length = max(len(row.ids) for row in rows) + extra_padding
    input_ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), length), dtype=np.int64)
    positions, labels = [], []
    for index, row in enumerate(rows):
        start = length - len(row.ids) if side == "left" else 0
        end = start + len(row.ids)
        input_ids[index, start:end] = row.ids
        attention_mask[index, start:end] = 1
        targets = np.asarray(row.targets, dtype=np.int64)
        positions.append(np.arange(start + row.answer_start - 1, end - 1)[targets != NO_LABEL])
        labels.append(targets[targets != NO_LABEL])
    num_answer = np.array([row.num_answer for row in rows], dtype=np.int64)
    return TokenBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        rows=np.repeat(np.arange(len(rows)), num_answer),
        positions=np.concatenate(positions),
        labels=np.concatenate(labels),
        num_answer=num_answer,
    )
