"""The answer tokens that carry the knowledge, in batches that all models run alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.data.collate import collate
from expunge.data.sets import Row
from expunge.data.templates import NO_LABEL, Encoded, Template
from expunge.metrics.leakage import novel_spans
from expunge.modeling.batch import INFERENCE_TOKENS, TensorBatch, length_batches

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpanBatch:
    """Rows that are run together; `tensors.labels` are the tokens of their spans, and nothing else is scored."""

    indices: list[int]
    """Index of each row in the list of all rows."""
    tensors: TensorBatch

    def row_means(self, values: Tensor) -> Floats:
        """Return the mean over the span of each row, (..., B), of (..., N) values of tokens."""
        sums = values.new_zeros((*values.shape[:-1], self.tensors.num_rows), dtype=torch.float64)
        sums.index_add_(-1, self.tensors.rows, values.double())
        means: Floats = (sums / self.tensors.num_answer).cpu().numpy()
        return means


def span_batches(template: Template, rows: Sequence[Row], pad_id: int, context: int) -> list[SpanBatch]:
    """Encode rows and group them by length; rows that exceed the context are left out.

    Args:
        template: Converts questions and answers to tokens.
        rows: Rows of the forget set.
        pad_id: Padding id.
        context: Longest row in tokens.
    """
    encoded = [encode_span(template, row) for row in rows]
    fitting = [index for index, item in enumerate(encoded) if len(item.ids) <= context]
    batches = length_batches([encoded[index] for index in fitting], INFERENCE_TOKENS)
    return [
        SpanBatch(indices, TensorBatch.of(collate([encoded[index] for index in indices], pad_id), "cpu"))
        for indices in ([fitting[index] for index in batch] for batch in batches)
    ]


def encode_span(template: Template, row: Row) -> Encoded:
    """Encode a row with labels at its span only: the answer tokens that contain novel words.

    Novel words are those of `metrics.leakage`: content words that the question does not contain. If there are none, the
    span is the full answer. Tokens are matched with words by their characters.
    """
    unlimited = template.without_limit()
    encoded = unlimited.encode(row.question, row.answer, row.id)
    written, offsets = unlimited.answer_offsets(row.question, row.answer)
    novel = novel_spans(written, row.question) or [(0, len(written))]
    inside = [any(start < stop and end > begin for begin, stop in novel) and end > start for start, end in offsets]
    if not any(inside):
        return encoded
    labels = (token if is_inside else NO_LABEL for token, is_inside in zip(encoded.targets, inside, strict=True))
    return replace(encoded, labels=tuple(labels))
