"""Packing: concatenate rows of unequal length into longer ones, to run them without padding.

Positions restart at 0 with every row. From them transformers builds masks that let every token attend
to its own row only, so each row is computed as if it were run alone. Batches are packed as they are sampled; rows are
never sorted or paired by length for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from expunge.modeling.types import CausalLM

Span = tuple[int, int]
"""Columns of a padded row's tokens: the first, and the last + 1."""


@dataclass(frozen=True)
class Packing:
    """Index maps between B padded rows of L columns and K packed rows of W columns."""

    source: Tensor
    """(K, W) flat indices into (B, L)."""
    position_ids: Tensor
    """(K, W) position of each token in its row; 0 in the unused rest, whose tokens then attend only to themselves."""
    back: Tensor
    """(B * L,) flat indices into (K, W); those of padding point at the last token of its row."""
    shape: tuple[int, int]
    """(B, L)."""

    def pack(self, values: Tensor) -> Tensor:
        """Rearrange (B, L, ...) values into packed rows, (K, W, ...)."""
        return values.flatten(0, 1)[self.source]

    def unpack(self, hidden: Tensor) -> Tensor:
        """Rearrange packed hidden states, (K, W, D), into (B, L, D); values of padding are undefined."""
        return hidden.flatten(0, 1).index_select(0, self.back).view(*self.shape, -1)


def pack(spans: Sequence[Span], length: int, model: CausalLM, *, single: bool = False) -> Packing | None:
    """Return a packing of padded rows, or None if it would not be cheaper than running them with padding.

    Args:
        spans: Columns of each row's tokens.
        length: Columns of the padded batch, L.
        model: The model that runs the rows; its width and attention implementation determine the packing.
        single: Pack all rows into one, whatever it costs.
    """
    config = model.config.get_text_config(decoder=True)
    lengths = [stop - start for start, stop in spans]
    # transformers derives row boundaries for flash attention only in batches of one row.
    single = single or str(config._attn_implementation).startswith("flash")
    bins = _fill(lengths, 1) if single else choose_bins(lengths, config.hidden_size)
    if len(bins) == len(spans):
        return None
    width = max(sum(lengths[row] for row in members) for members in bins)
    source = np.zeros((len(bins), width), dtype=np.int64)
    positions = np.zeros_like(source)
    back = np.zeros((len(spans), length), dtype=np.int64)
    for index, members in enumerate(bins):
        column = 0
        for row in members:
            (start, _), size = spans[row], lengths[row]
            source[index, column : column + size] = row * length + start + np.arange(size)
            positions[index, column : column + size] = np.arange(size)
            back[row] = index * width + column + size - 1
            back[row, start : start + size] = index * width + column + np.arange(size)
            column += size
    device = next(model.parameters()).device
    return Packing(
        source=torch.from_numpy(source).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        back=torch.from_numpy(back.flatten()).to(device),
        shape=(len(spans), length),
    )


def choose_bins(lengths: Sequence[int], hidden_size: int) -> list[list[int]]:
    """Distribute rows over the number of packed rows with the lowest cost.

    cost of K rows of W tokens = K * W * (6 D + W), which is proportional to the compute of a decoder layer of width D:
    24 D^2 per token in its matrices, and 4 D W in its attention, which also computes the masked scores.

    Args:
        lengths: Tokens of each row.
        hidden_size: D.

    Returns:
        Row indices of each packed row.
    """
    candidates = [_fill(lengths, count) for count in range(1, len(lengths) + 1)]

    def cost(bins: list[list[int]]) -> int:
        width = max(sum(lengths[row] for row in members) for members in bins)
        return len(bins) * width * (6 * hidden_size + width)

    return min(candidates, key=cost)


def _fill(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Distribute rows over `count` bins: longest row first, each into the bin with the fewest tokens."""
    bins: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = totals.index(min(totals))
        bins[emptiest].append(row)
        totals[emptiest] += lengths[row]
    return bins
