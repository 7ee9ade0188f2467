"""Answers that share a prompt share its forward pass, and answers that begin alike share their beginning.

A row holds a tree: the prompt, then the answers in sorted order, each from where it parts from the one before it. A
token sees its ancestors only and counts its position from the root, so each is computed exactly as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.templates import Encoded

MAX_ROW = 1024
"""Tokens in a row; the mask grows with its square."""


@dataclass(frozen=True)
class Branches:
    """A prompt and the answers that follow it, as positions in the list of items, in the tree's order."""

    prompt: tuple[int, ...]
    items: tuple[int, ...]
    length: int
    """Tokens of the tree, without the last ones of the answers, which predict nothing."""


def group(items: Sequence[Encoded], limit: int) -> list[Branches]:
    """Items by prompt, longest first; a group that would pass `limit` tokens is split."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        by_prompt.setdefault(item.ids[: item.answer_start], []).append(index)
    groups: list[Branches] = []
    for prompt, indices in by_prompt.items():
        current: list[int] = []
        length = len(prompt)
        for index in sorted(indices, key=lambda i: items[i].ids):
            body = items[index].ids[:-1]
            own = len(body) - (_shared(items[current[-1]].ids[:-1], body) if current else len(prompt))
            if current and length + own > limit:
                groups.append(Branches(prompt, tuple(current), length))
                current, length, own = [], len(prompt), len(body) - len(prompt)
            current.append(index)
            length += own
        groups.append(Branches(prompt, tuple(current), length))
    return sorted(groups, key=lambda branches: branches.length, reverse=True)


@torch.no_grad()
def branch_hidden(
    model: Any, items: Sequence[Encoded], groups: Sequence[Branches], pad_id: int
) -> tuple[Tensor, list[np.ndarray[Any, Any]], list[int]]:
    """One forward pass over a batch of groups.

    Returns:
        (N, D) hidden states that predict at least one answer token; for each item the places in them of those that
        predict its answer; and the order of the items.
    """
    device = next(model.parameters()).device
    width = max(branches.length for branches in groups)
    ids = np.full((len(groups), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(groups), width), dtype=np.int64)
    # A padding token sees itself: a row of the mask without any token would give nan.
    ends = np.tile(np.arange(1, width + 1), (len(groups), 1))
    places: list[np.ndarray[Any, Any]] = []
    order: list[int] = []
    for row, branches in enumerate(groups):
        paths = _write(items, branches, ids[row], positions[row], ends[row])
        for index, path in zip(branches.items, paths, strict=True):
            places.append(row * width + path[len(branches.prompt) - 1 :])
            order.append(index)
    hidden = model.base_model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=_mask(torch.from_numpy(ends).to(device), next(model.parameters()).dtype),
        position_ids=torch.from_numpy(positions).to(device),
        use_cache=False,
    ).last_hidden_state
    needed, inverse = np.unique(np.concatenate(places), return_inverse=True)
    lengths = np.cumsum([len(place) for place in places])[:-1]
    return hidden.flatten(0, 1)[torch.from_numpy(needed).to(device)], np.split(inverse, lengths), order


def _write(
    items: Sequence[Encoded],
    branches: Branches,
    ids: np.ndarray[Any, Any],
    positions: np.ndarray[Any, Any],
    ends: np.ndarray[Any, Any],
) -> list[np.ndarray[Any, Any]]:
    """Fill one row with a tree; returns for each item the columns of its tokens, prompt first."""
    before: tuple[int, ...] = ()
    path = np.zeros(0, dtype=np.int64)
    paths = []
    stop = 0
    for index in branches.items:
        body = items[index].ids[:-1]
        shared = _shared(before, body)
        start, stop = stop, stop + len(body) - shared
        ids[start:stop], positions[start:stop] = body[shared:], np.arange(shared, len(body))
        path = np.concatenate([path[:shared], np.arange(start, stop)])
        # What is below a token stands right behind it, up to the last path that goes through it.
        ends[path] = stop
        paths.append(path)
        before = body
    return paths


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that both begin with, found by halving: comparing slices is much quicker than token by token."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _mask(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T) additive mask: token i sees token j where j <= i < ends[j], the end of what is below j."""
    columns = torch.arange(ends.shape[1], device=ends.device)
    allowed = (columns[None, None, :] <= columns[:, None]) & (columns[:, None] < ends[:, None, :])
    return torch.zeros(allowed.shape, dtype=dtype, device=ends.device).masked_fill_(~allowed, torch.finfo(dtype).min)[
        :, None
    ]
