"""Scoring of texts: log-probability, top-1 hit and vocabulary moments of each answer token, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import INFERENCE_TOKENS, TensorBatch, length_batches
from expunge.modeling.forward import (
    MODEL_ERRORS,
    decode,
    head_of,
    hooks_disabled,
    in_float32,
    is_half,
    length_limits,
    output_path,
    rounding_noise,
    trial_ids,
    vocab_size,
)
from expunge.probes.prefix_tree import MAX_ROW, PrefixTree, build_trees, tree_hidden_states
from expunge.probes.requests import Array, TokenScores

SCORED_ELEMENTS = 2**22
"""Logits in memory at a time: 16 MiB in float32. The moments need several copies of a chunk, and small chunks stay in
the CPU cache. Without gradients, larger chunks are no faster."""

IndexedScores = list[tuple[int, TokenScores]]


@torch.no_grad()
def score(
    model: Any,
    items: Sequence[Encoded],
    *,
    pad_id: int,
    batch_tokens: int,
    detail: Sequence[bool] | None = None,
    hidden: bool = False,
    title: str = "Scoring",
    share_prompts: bool = True,
) -> list[TokenScores]:
    """Score each answer token of each item.

    Equal items are scored once, answers to the same prompt share its forward pass, and batches contain rows of similar
    length to reduce padding.

    Args:
        model: A causal language model; its mode is restored afterwards.
        items: Encoded rows.
        pad_id: Padding id.
        batch_tokens: Maximum number of padded tokens per forward pass; on a CPU at most `INFERENCE_TOKENS`.
        detail: Whether top-1 hits and vocabulary moments are returned too, per item; None for no item.
        hidden: Whether the last hidden states are returned too.
        title: Title of the progress bar.
        share_prompts: Whether answers share prompts if the model supports it; False changes values by rounding only.

    Returns:
        One record per item, in the order of `items`.

    Raises:
        IncompatibleError: Hidden states are needed, and the model does not return any.
    """
    if hidden and output_path(causal_lm(model)).head == "logits":
        raise IncompatibleError(f"{type(causal_lm(model)).__name__} returns no hidden states, which a metric needs.")
    needs_detail: dict[tuple[tuple[int, ...], int], bool] = {}
    for item, flag in zip(items, detail or [False] * len(items), strict=True):
        key = (item.ids, item.answer_start)
        needs_detail[key] = needs_detail.get(key, False) or flag
    unique = [Encoded(*key) for key in needs_detail]
    scorer = _Scorer(model, unique, list(needs_detail.values()), hidden, pad_id)
    results: dict[int, TokenScores] = {}
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(unique), "texts") as advance:
            max_tokens = min(batch_tokens, INFERENCE_TOKENS) if scorer.model.device.type == "cpu" else batch_tokens
            trees = _shared_trees(scorer) if share_prompts else []
            in_trees = {index for tree in trees for index in tree.items}
            alone = [index for index in range(len(unique)) if index not in in_trees]
            batches: list[tuple[Callable[[Any], IndexedScores], Any]] = [
                *((scorer.score_trees, batch) for batch in _tree_batches(trees, max_tokens)),
                *(
                    (scorer.score_rows, [alone[i] for i in batch])
                    for batch in length_batches([unique[i] for i in alone], max_tokens)
                ),
            ]
            for score_batch, batch in batches:
                scores = score_batch(batch)
                results.update(scores)
                advance(len(scores))
    finally:
        model.train(was_training)
    index_of = {key: index for index, key in enumerate(needs_detail)}
    return [results[index_of[item.ids, item.answer_start]] for item in items]


class _Scorer:
    """Scorer of batches of items, which are given by their indices in one list."""

    def __init__(self, model: Any, items: Sequence[Encoded], detail: Sequence[bool], hidden: bool, pad_id: int) -> None:
        self.model, self.items, self.pad_id = causal_lm(model), items, pad_id
        self.detail, self.hidden = detail, hidden

    def score_rows(self, indices: Sequence[int]) -> IndexedScores:
        """Score items with one row per item."""
        device = next(self.model.parameters()).device
        batch = TensorBatch.of(collate([self.items[i] for i in indices], self.pad_id), device)
        lengths = [self.items[i].num_answer for i in indices]
        predictors = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
        return self._scores(decode(self.model, batch)[batch.rows, batch.positions], predictors, indices)

    def score_trees(self, trees: Sequence[PrefixTree]) -> IndexedScores:
        """Score items with one row per prompt and its answers."""
        return self._scores(*tree_hidden_states(self.model, self.items, trees, self.pad_id))

    def _scores(self, hidden: Tensor, predictors: Sequence[Array], order: Sequence[int]) -> IndexedScores:
        """Score the items in `order` from the hidden states that predict their answer tokens, given by index."""
        labels = np.concatenate([self.items[i].targets for i in order])
        detail = np.repeat([self.detail[i] for i in order], [len(indices) for indices in predictors])
        # Answers with a common prefix have equal pairs of hidden state and label there; each pair is projected once.
        pairs = np.stack([np.concatenate(predictors), labels])
        (unique_states, unique_labels), inverse = np.unique(pairs, axis=1, return_inverse=True)
        unique_detail = np.zeros(len(unique_states), dtype=bool)
        np.logical_or.at(unique_detail, inverse, detail)
        values = token_values(
            self.model, hidden[torch.from_numpy(unique_states).to(hidden.device)], unique_labels, unique_detail
        )
        hidden_array = hidden.float().cpu().numpy() if self.hidden else None
        item_values = np.split(values[:, inverse], np.cumsum([len(indices) for indices in predictors])[:-1], axis=1)
        results: IndexedScores = []
        for index, (logp, top1, mean, variance), indices in zip(order, item_values, predictors, strict=True):
            scores = TokenScores(logp, hidden=None if hidden_array is None else hidden_array[indices])
            if self.detail[index]:
                scores = replace(scores, top1=top1.astype(bool), mean=mean, variance=variance)
            results.append((index, scores))
        return results


def token_values(model: Any, hidden: Tensor, labels: Array, detail: Array) -> Array:
    """Compute log-probability, top-1 hit and vocabulary moments of N labels, projecting to the vocabulary in chunks.

    Args:
        model: A causal language model.
        hidden: (N, D) hidden states that predict the labels.
        labels: (N,) token ids.
        detail: (N,) whether hit and moments are computed; otherwise they are 0.

    Returns:
        (4, N) float32: log p(label), whether the label is the most likely token, mean and variance of log p(z) over
        the vocabulary under p(z).
    """
    head, size = head_of(model), max(1, SCORED_ELEMENTS // vocab_size(model))
    values = np.zeros((4, len(labels)), np.float32)
    targets = torch.from_numpy(labels).to(hidden.device)
    for start in range(0, len(labels), size):
        chunk = slice(start, start + size)
        logp = torch.log_softmax(head(hidden[chunk]), -1)
        values[0, chunk] = logp.gather(1, targets[chunk, None]).squeeze(1).cpu().numpy()
        indices = np.flatnonzero(detail[chunk])
        if len(indices):
            detail_logp = logp if len(indices) == len(logp) else logp[torch.from_numpy(indices).to(logp.device)]
            probability = detail_logp.exp()
            # nan_to_num: a token of probability 0 contributes 0 x -inf, which counts as 0.
            mean = (probability * detail_logp).nan_to_num_().sum(1)
            # Centred, because for a confident prediction the difference of mean square and squared mean cancels.
            variance = (detail_logp - mean[:, None]).square_().mul_(probability).nan_to_num_().sum(1)
            top1 = detail_logp.argmax(1) == targets[chunk][torch.from_numpy(indices).to(logp.device)]
            rows = torch.stack([top1.float(), mean, variance])
            values[1:, start + indices] = rows.cpu().numpy()
    return values


def _tree_batches(trees: Sequence[PrefixTree], batch_tokens: int) -> list[Sequence[PrefixTree]]:
    """Return batches of prefix trees of similar length, from trees in descending order of length."""
    batches = []
    while trees:
        size = max(1, batch_tokens // trees[0].length)
        batches.append(trees[:size])
        trees = trees[size:]
    return batches


def _shared_trees(scorer: _Scorer) -> list[PrefixTree]:
    """Return the prefix trees of several items that the model scores like single rows.

    Trees are grouped by the limits of the model, such as a sliding window, that their items or their rows exceed. Each
    group has a trial, because one does not show the effects of another's limits.
    """
    if getattr(scorer.model.config, "_attn_implementation", "") not in {"sdpa", "eager"}:
        return []
    groups: dict[tuple[int, int], list[PrefixTree]] = {}
    for tree in build_trees(scorer.items, MAX_ROW):
        if len(tree.items) > 1:
            limits = [len(length_limits(scorer.model, 1, size)) for size in (tree.depth, tree.length)]
            groups.setdefault((limits[0], limits[1]), []).append(tree)
    shared = [tree for group in groups.values() if _can_share_prompts(scorer, group) for tree in group]
    return sorted(shared, key=lambda tree: tree.length, reverse=True)


def _can_share_prompts(scorer: _Scorer, trees: Sequence[PrefixTree]) -> bool:
    """Return whether the model scores prefix trees like single rows, from a trial on the longest and the deepest."""
    largest = {max(trees, key=lambda tree: tree.length), max(trees, key=lambda tree: tree.depth)}
    with in_float32(scorer.model):
        return _has_no_leak(scorer) and all(_scores_alike(scorer, tree) for tree in largest)


def _has_no_leak(scorer: _Scorer) -> bool:
    """Return whether nothing passes from one branch of a tree to the next, from a trial made once per model.

    Arbitrary tokens show more of it, such as a recurrent state, than similar answers do.
    """
    if "_has_no_leak" not in vars(scorer.model):
        # 8 tokens together, which are less than any window: beyond one, neighbours differ for another reason.
        start = trial_ids(scorer.model, 2).tolist()
        branches = [trial_ids(scorer.model, 3, start=3 * index).tolist() for index in (1, 2, 3)]
        items = [Encoded((*start, *branch), len(start)) for branch in branches]
        trial = _Scorer(scorer.model, items, [False] * len(items), False, scorer.pad_id)
        with hooks_disabled(scorer.model):
            vars(scorer.model)["_has_no_leak"] = _scores_alike(trial, build_trees(items, MAX_ROW)[0])
    return bool(vars(scorer.model)["_has_no_leak"])


def _scores_alike(scorer: _Scorer, tree: PrefixTree) -> bool:
    """Return whether the items of a tree have the same scores as in rows of their own, up to rounding."""
    expected = dict(scorer.score_rows(tree.items))
    try:
        actual = scorer.score_trees([tree])
    except MODEL_ERRORS:
        # Some architectures reject a mask for each pair of tokens.
        return False
    share = rounding_noise(scorer.model) if is_half(scorer.model) else 1e-4
    for index, scores in actual:
        tolerance = share * max(1.0, np.abs(expected[index].logp).max())
        if np.abs(scores.logp - expected[index].logp).max() > min(tolerance, 0.1):
            return False
    return True
