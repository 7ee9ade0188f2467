"""Scores texts: one pass over the answers gives the log-probability of each of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.logprobs import TensorBatch
from expunge.modeling.reference import batch_token_logp, causal_lm, length_batches
from expunge.probes.packing import MAX_ROW, Branches, group, score_branches

Array = np.ndarray[Any, Any]


@torch.no_grad()
def score(
    model: Any,
    items: Sequence[Encoded],
    *,
    pad_id: int,
    batch_tokens: int,
    title: str = "Scoring",
    share_prompts: bool = True,
) -> list[Array]:
    """Log-probability of each answer token of each item.

    Equal items are scored once, answers to one prompt share its forward pass, and batches hold rows of similar
    length, so that padding is rare.

    Args:
        model: A causal language model; its mode is restored afterwards.
        items: Encoded rows.
        pad_id: Id written into padding.
        batch_tokens: Padded tokens per forward pass.
        title: What the progress bar says.
        share_prompts: Switches the sharing off; it changes no number beyond rounding.

    Returns:
        One float32 array of natural logs per item, in the order of `items`; its last entry belongs to the
        end-of-sequence token.
    """
    unique = list({(item.ids, item.answer_start): item for item in items}.values())
    place = {(item.ids, item.answer_start): index for index, item in enumerate(unique)}
    results: list[Array] = [np.empty(0, np.float32)] * len(unique)
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(unique), "texts") as advance:
            run = _score_shared if share_prompts and _can_share(model, unique, pad_id) else _score_apart
            run(model, unique, pad_id, batch_tokens, results, advance)
    finally:
        model.train(was_training)
    return [results[place[item.ids, item.answer_start]] for item in items]


def _score_apart(
    model: Any,
    items: Sequence[Encoded],
    pad_id: int,
    batch_tokens: int,
    results: list[Array],
    advance: Callable[[int], None],
) -> None:
    device = next(model.parameters()).device
    for indices in length_batches(items, batch_tokens):
        batch = TensorBatch.of(collate([items[i] for i in indices], pad_id), device)
        values = batch_token_logp(model, batch).cpu().numpy()
        ends = np.cumsum([items[i].num_answer for i in indices])[:-1]
        for index, part in zip(indices, np.split(values, ends), strict=True):
            results[index] = part
        advance(len(indices))


def _score_shared(
    model: Any,
    items: Sequence[Encoded],
    pad_id: int,
    batch_tokens: int,
    results: list[Array],
    advance: Callable[[int], None],
) -> None:
    groups = group(items, MAX_ROW)
    start = 0
    while start < len(groups):
        stop = start + max(1, batch_tokens // groups[start].length)
        batch = groups[start:stop]
        for index, values in score_branches(model, items, batch, pad_id):
            results[index] = values
        advance(sum(len(branches.items) for branches in batch))
        start = stop


def _can_share(model: Any, items: Sequence[Encoded], pad_id: int) -> bool:
    """Whether sharing pays and this model computes branches exactly; tried on one group, not assumed.

    The group with the longest row is tried, because a sliding window shows in long rows only.
    """
    config = causal_lm(model).config
    if getattr(config, "_attn_implementation", "") not in {"sdpa", "eager"}:
        return False
    groups = [branches for branches in group(items, MAX_ROW) if len(branches.items) > 1]
    if not groups:
        return False
    trial: Branches = max(groups, key=lambda branches: max(len(items[i].ids) for i in branches.items))
    together = score_branches(model, items, [trial], pad_id)
    alone: list[Array] = [np.empty(0, np.float32)] * len(items)
    _score_apart(model, [items[i] for i, _ in together], pad_id, MAX_ROW, alone, lambda amount: None)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1
    return all(np.abs(values - alone[k]).max() <= tolerance for k, (_, values) in enumerate(together))
