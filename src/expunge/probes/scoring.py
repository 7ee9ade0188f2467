"""Scores texts: one pass over the answers gives everything that is said of each of their tokens."""

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
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import INFERENCE_TOKENS, TensorBatch, length_batches
from expunge.modeling.forward import decode, head_of
from expunge.probes.prefix_tree import MAX_ROW, Branches, branch_hidden, group
from expunge.probes.requests import Array, TokenScores

SCORED_ELEMENTS = 2**22
"""Logits that exist at one time: 16 MiB in float32. Moments take several copies of them, and small ones stay in the
processor's cache; without gradients there is nothing that larger pieces would save."""

Scored = list[tuple[int, TokenScores]]


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
    """Log-probability of each answer token of each item.

    Equal items are scored once, answers to one prompt share its forward pass, and batches hold rows of similar
    length, so that padding is rare.

    Args:
        model: A causal language model; its mode is restored afterwards.
        items: Encoded rows.
        pad_id: Id written into padding.
        batch_tokens: Padded tokens per forward pass, at most; on a processor no more than `INFERENCE_TOKENS`.
        detail: Whether top-1 hits and vocabulary moments are wanted too, per item; None for nowhere.
        hidden: Whether the last hidden states are wanted too.
        title: What the progress bar says.
        share_prompts: Switches the sharing off; it changes no number beyond rounding.

    Returns:
        One record per item, in the order of `items`.
    """
    wanted: dict[tuple[tuple[int, ...], int], bool] = {}
    for item, detailed in zip(items, detail or [False] * len(items), strict=True):
        key = (item.ids, item.answer_start)
        wanted[key] = wanted.get(key, False) or detailed
    unique = [Encoded(*key) for key in wanted]
    job = _Job(model, unique, list(wanted.values()), hidden, pad_id)
    results: dict[int, TokenScores] = {}
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(unique), "texts") as advance:
            shared = share_prompts and _can_share(job)
            run: Callable[[Any], Scored] = job.together if shared else job.apart
            tokens = min(batch_tokens, INFERENCE_TOKENS) if job.model.device.type == "cpu" else batch_tokens
            batches: Sequence[Any] = (_packed if shared else length_batches)(unique, tokens)
            for batch in batches:
                found = run(batch)
                results.update(found)
                advance(len(found))
    finally:
        model.train(was_training)
    place = {key: index for index, key in enumerate(wanted)}
    return [results[place[item.ids, item.answer_start]] for item in items]


class _Job:
    """Scores batches of items of one list."""

    def __init__(self, model: Any, items: Sequence[Encoded], detail: Sequence[bool], hidden: bool, pad_id: int) -> None:
        self.model, self.items, self.pad_id = causal_lm(model), items, pad_id
        self.detail, self.hidden = detail, hidden

    def apart(self, indices: Sequence[int]) -> Scored:
        """Each item in a row of its own."""
        device = next(self.model.parameters()).device
        batch = TensorBatch.of(collate([self.items[i] for i in indices], self.pad_id), device)
        lengths = [self.items[i].num_answer for i in indices]
        places = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
        return self._scores(decode(self.model, batch)[batch.rows, batch.positions], places, indices)

    def together(self, groups: Sequence[Branches]) -> Scored:
        """The answers to one prompt in one row."""
        return self._scores(*branch_hidden(self.model, self.items, groups, self.pad_id))

    def _scores(self, hidden: Tensor, places: Sequence[Array], order: Sequence[int]) -> Scored:
        """Scores of the items in `order`, whose answer tokens are predicted by the hidden states at `places`."""
        labels = np.concatenate([self.items[i].targets for i in order])
        detail = np.repeat([self.detail[i] for i in order], [len(place) for place in places])
        # Answers that begin alike share a state and a label until they part.
        pairs = np.stack([np.concatenate(places), labels])
        (states, wanted), inverse = np.unique(pairs, axis=1, return_inverse=True)
        detailed = np.zeros(len(states), dtype=bool)
        np.logical_or.at(detailed, inverse, detail)
        values = token_values(self.model, hidden[torch.from_numpy(states).to(hidden.device)], wanted, detailed)
        kept = hidden.float().cpu().numpy() if self.hidden else None
        parts = np.split(values[:, inverse], np.cumsum([len(place) for place in places])[:-1], axis=1)
        found: Scored = []
        for index, part, place in zip(order, parts, places, strict=True):
            logp, top1, mean, variance = part
            scores = TokenScores(logp, hidden=None if kept is None else kept[place])
            if self.detail[index]:
                scores = replace(scores, top1=top1.astype(bool), mean=mean, variance=variance)
            found.append((index, scores))
        return found


def token_values(model: Any, hidden: Tensor, labels: Array, detail: Array) -> Array:
    """What the output layer says at N positions, projected to the vocabulary in chunks.

    Args:
        model: A causal language model.
        hidden: (N, D) hidden states that predict the labels.
        labels: (N,) token ids.
        detail: (N,) where more than the log-probability is wanted; elsewhere the other rows hold 0.

    Returns:
        (4, N) float32: log p(label), whether the label is the likeliest token, mean and variance of log p(z) over
        the vocabulary under p(z).
    """
    head, size = head_of(model), max(1, SCORED_ELEMENTS // model.config.vocab_size)
    values = np.zeros((4, len(labels)), np.float32)
    targets = torch.from_numpy(labels).to(hidden.device)
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        logp = torch.log_softmax(head(hidden[part]), -1)
        values[0, part] = logp.gather(1, targets[part, None]).squeeze(1).cpu().numpy()
        places = np.flatnonzero(detail[part])
        if len(places):
            chosen = logp if len(places) == len(logp) else logp[torch.from_numpy(places).to(logp.device)]
            probability = chosen.exp()
            mean = (probability * chosen).nan_to_num_().sum(1)  # a token of probability 0 counts 0 x -inf = 0
            # Around the mean: of a sure prediction, mean and mean square are nearly equal, and their difference noise.
            variance = (chosen - mean[:, None]).square_().mul_(probability).nan_to_num_().sum(1)
            top1 = chosen.argmax(1) == targets[part][torch.from_numpy(places).to(logp.device)]
            rows = torch.stack([top1.float(), mean, variance])
            values[1:, start + places] = rows.cpu().numpy()
    return values


def _packed(items: Sequence[Encoded], batch_tokens: int) -> list[list[Branches]]:
    """Groups of answers to one prompt in batches of similar length."""
    groups, batches = group(items, MAX_ROW), []
    while groups:
        size = max(1, batch_tokens // groups[0].length)
        batches.append(groups[:size])
        groups = groups[size:]
    return batches


def _can_share(job: _Job) -> bool:
    """Whether sharing pays and this model computes branches exactly; tried on one group, not assumed.

    The group with the longest row is tried, because a sliding window shows in long rows only.
    """
    if getattr(job.model.config, "_attn_implementation", "") not in {"sdpa", "eager"}:
        return False
    groups = [branches for branches in group(job.items, MAX_ROW) if len(branches.items) > 1]
    if not groups:
        return False
    trial = max(groups, key=lambda branches: max(len(job.items[i].ids) for i in branches.items))
    alone = dict(job.apart(trial.items))
    tolerance = 1e-3 if next(job.model.parameters()).dtype == torch.float32 else 0.1
    return all(np.abs(found.logp - alone[i].logp).max() <= tolerance for i, found in job.together([trial]))
