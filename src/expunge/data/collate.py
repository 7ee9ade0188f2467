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


def num_answer_tokens(row: Encoded, learned_length: int = 0) -> int:
    """Return the number of labels of a row, with those of its padding up to `learned_length` tokens."""
    return row.num_answer + max(0, learned_length - len(row.ids))


def collate(
    rows: Sequence[Encoded],
    pad_id: int,
    side: Literal["right", "left"] = "right",
    extra_padding: int = 0,
    learned_length: int = 0,
) -> TokenBatch:
    """Pad rows to the length of the longest one.

    Args:
        rows: Encoded rows, at least one.
        pad_id: Token id of the padding.
        side: Side on which rows are padded.
        extra_padding: Number of additional padding columns. They must not change any result; tests use them.
        learned_length: Pad rows on the right to at least this many tokens, and label the padding (`num_answer`); 0 for
            padding without labels. The attention mask is 0 on padding in either case.
    """
    length = max(learned_length, max(len(row.ids) for row in rows)) + extra_padding
    input_ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), length), dtype=np.int64)
    positions, labels = [], []
    for index, row in enumerate(rows):
        start = length - len(row.ids) if side == "left" else 0
        end = start + len(row.ids)
        input_ids[index, start:end] = row.ids
        attention_mask[index, start:end] = 1
        num_learned = max(0, learned_length - len(row.ids))
        targets = np.asarray((*row.targets, *(pad_id,) * num_learned), dtype=np.int64)
        positions.append(np.arange(start + row.answer_start - 1, end - 1 + num_learned)[targets != NO_LABEL])
        labels.append(targets[targets != NO_LABEL])
    num_answer = np.array([num_answer_tokens(row, learned_length) for row in rows], dtype=np.int64)
    return TokenBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        rows=np.repeat(np.arange(len(rows)), num_answer),
        positions=np.concatenate(positions),
        labels=np.concatenate(labels),
        num_answer=num_answer,
    )
