"""Forward passes over prefix trees: answers to one prompt share the prompt and their common prefixes.

A row of the batch contains one tree: the prompt, then the answers in sorted order, each from the first token in which
it differs from the previous answer. A token attends to its ancestors only and its position is its depth in the tree,
so each answer is computed as if it were alone in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.templates import Encoded
from expunge.modeling.forward import run_inputs

MAX_ROW = 1024
"""Maximum number of tokens in a row; the attention mask grows with its square."""


@dataclass(frozen=True)
class PrefixTree:
    """A prompt and the answers that follow it, as indices of items, in the order of the tree."""

    prompt: tuple[int, ...]
    items: tuple[int, ...]
    length: int
    """Number of tokens in the tree, without the last token of each answer, which predicts nothing."""
    depth: int
    """Number of tokens of its longest item."""


def build_trees(items: Sequence[Encoded], limit: int) -> list[PrefixTree]:
    """Group items by prompt, longest tree first; a tree of more than `limit` tokens is split."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        by_prompt.setdefault(item.ids[: item.answer_start], []).append(index)
    trees: list[PrefixTree] = []
    for prompt, indices in by_prompt.items():
        current: list[int] = []
        length = depth = len(prompt)
        for index in sorted(indices, key=lambda i: items[i].ids):
            ids = items[index].ids[:-1]
            num_new = len(ids) - (_common_prefix_length(items[current[-1]].ids[:-1], ids) if current else len(prompt))
            if current and length + num_new > limit:
                trees.append(PrefixTree(prompt, tuple(current), length, depth))
                current, length, depth, num_new = [], len(prompt), 0, len(ids) - len(prompt)
            current.append(index)
            length, depth = length + num_new, max(depth, len(items[index].ids))
        trees.append(PrefixTree(prompt, tuple(current), length, depth))
    return sorted(trees, key=lambda tree: tree.length, reverse=True)


@torch.no_grad()
def tree_hidden_states(
    model: Any, items: Sequence[Encoded], trees: Sequence[PrefixTree], pad_id: int
) -> tuple[Tensor, list[np.ndarray[Any, Any]], list[int]]:
    """Run one forward pass over a batch of trees.

    Returns:
        (N, D) hidden states that predict at least one answer token; for each item the indices of the hidden states that
        predict its answer; and the indices of the items in this order.
    """
    device = next(model.parameters()).device
    width = max(tree.length for tree in trees)
    ids = np.full((len(trees), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(trees), width), dtype=np.int64)
    # End of each token's subtree. A padding token attends to itself, since a fully masked row would give NaN.
    ends = np.tile(np.arange(1, width + 1), (len(trees), 1))
    predictors: list[np.ndarray[Any, Any]] = []
    order: list[int] = []
    for row, tree in enumerate(trees):
        previous: tuple[int, ...] = ()
        columns = np.zeros(0, dtype=np.int64)
        stop = 0
        for index in tree.items:
            item_ids = items[index].ids[:-1]
            shared = _common_prefix_length(previous, item_ids)
            start, stop = stop, stop + len(item_ids) - shared
            ids[row, start:stop] = item_ids[shared:]
            positions[row, start:stop] = np.arange(shared, len(item_ids))
            columns = np.concatenate([columns[:shared], np.arange(start, stop)])
            # In sorted order a subtree is contiguous, so it ends with the last item that passes through its root.
            ends[row, columns] = stop
            predictors.append(row * width + columns[len(tree.prompt) - 1 :])
            order.append(index)
            previous = item_ids
    inputs = {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": _attention_mask(torch.from_numpy(ends).to(device), next(model.parameters()).dtype),
        "position_ids": torch.from_numpy(positions).to(device),
    }
    hidden = run_inputs(model, inputs)
    unique, inverse = np.unique(np.concatenate(predictors), return_inverse=True)
    splits = np.cumsum([len(indices) for indices in predictors])[:-1]
    return hidden.flatten(0, 1)[torch.from_numpy(unique).to(device)], np.split(inverse, splits), order


def _common_prefix_length(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return the length of the common prefix, by bisection: comparing slices is faster than comparing tokens."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _attention_mask(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the (B, 1, T, T) additive mask: token i attends to token j if j <= i < ends[j], the end of j's subtree."""
    columns = torch.arange(ends.shape[1], device=ends.device)
    allowed = (columns[None, None, :] <= columns[:, None]) & (columns[:, None] < ends[:, None, :])
    mask = torch.zeros(allowed.shape, dtype=dtype, device=ends.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
