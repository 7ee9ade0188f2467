"""Several rows in one: a forward pass without padding.

Rows of unequal length stand one after the other in a few long ones of equal length. Each counts its positions from
0, from which transformers' masks tell where a row ends, so that every token sees its own row only and is computed as
if that stood alone. The rows of a batch stay what they are: nothing is sorted or paired by length for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Span = tuple[int, int]
"""First column of a padded row's tokens, and the one behind its last."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens of B padded rows of L columns stand in K packed rows of W columns."""

    source: Tensor
    """(K, W) flat index into (B, L)."""
    position_ids: Tensor
    """(K, W) position of each token in its own row; 0 in the rest, which so sees only itself."""
    back: Tensor
    """(B * L,) flat index into (K, W); padding points at its row's last token."""
    shape: tuple[int, int]
    """(B, L)."""

    def pack(self, values: Tensor) -> Tensor:
        """(B, L, ...) -> (K, W, ...)."""
        return values.flatten(0, 1)[self.source]

    def unpack(self, hidden: Tensor) -> Tensor:
        """(K, W, D) -> (B, L, D), whose padding means nothing."""
        return hidden.flatten(0, 1).index_select(0, self.back).view(*self.shape, -1)


def pack(spans: Sequence[Span], length: int, model: Any) -> Packing | None:
    """A packing of padded rows, or None where padding costs no more.

    Args:
        spans: Where each row's tokens are.
        length: Columns of the padded batch, L.
        model: The model that will be run, for its width and its attention.
    """
    config = model.config.get_text_config()
    lengths = [stop - start for start, stop in spans]
    # Flash attention finds the rows' ends in a batch of one row only.
    one = str(config._attn_implementation).startswith("flash")
    bins = _fill(lengths, 1) if one else choose(lengths, config.hidden_size)
    if len(bins) == len(spans):
        return None
    width = max(sum(lengths[row] for row in members) for members in bins)
    source = np.zeros((len(bins), width), dtype=np.int64)
    positions = np.zeros_like(source)
    back = np.zeros((len(spans), length), dtype=np.int64)
    for index, members in enumerate(bins):
        at = 0
        for row in members:
            (start, _), size = spans[row], lengths[row]
            source[index, at : at + size] = row * length + start + np.arange(size)
            positions[index, at : at + size] = np.arange(size)
            back[row] = index * width + at + size - 1
            back[row, start : start + size] = index * width + at + np.arange(size)
            at += size
    device = next(model.parameters()).device
    return Packing(
        source=torch.from_numpy(source).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        back=torch.from_numpy(back.flatten()).to(device),
        shape=(len(spans), length),
    )


def choose(lengths: Sequence[int], hidden_size: int) -> list[list[int]]:
    """Rows in as many packed ones as cost least.

    cost of K rows of W tokens = K * W * (6 D + W), which is what a decoder layer of width D computes up to a
    factor: 24 D^2 per token in its matrices, and 4 D W in its attention, which looks at the masked rest too.

    Returns:
        The members of each packed row.
    """
    candidates = [_fill(lengths, count) for count in range(1, len(lengths) + 1)]

    def cost(bins: list[list[int]]) -> int:
        width = max(sum(lengths[row] for row in members) for members in bins)
        return len(bins) * width * (6 * hidden_size + width)

    return min(candidates, key=cost)


def _fill(lengths: Sequence[int], count: int) -> list[list[int]]:
    """The longest row first, each into the bin with the fewest tokens so far."""
    bins: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = filled.index(min(filled))
        bins[emptiest].append(row)
        filled[emptiest] += lengths[row]
    return bins
