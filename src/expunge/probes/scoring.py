"""Scores texts: one pass over the answers gives the log-probability of each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.logprobs import TensorBatch
from expunge.modeling.reference import batch_token_logp, length_batches


@torch.no_grad()
def score(
    model: Any, items: Sequence[Encoded], *, pad_id: int, batch_tokens: int, title: str = "Scoring"
) -> list[np.ndarray[Any, Any]]:
    """Log-probability of each answer token of each item.

    Items are scored in order of length, so that padding is rare, and equal items only once.

    Args:
        model: A causal language model; its mode is restored afterwards.
        items: Encoded rows.
        pad_id: Id written into padding.
        batch_tokens: Padded tokens per forward pass.
        title: What the progress bar says.

    Returns:
        One float32 array of natural logs per item, in the order of `items`; its last entry belongs to the
        end-of-sequence token.
    """
    unique = list({(item.ids, item.answer_start): item for item in items}.values())
    place = {(item.ids, item.answer_start): index for index, item in enumerate(unique)}
    results: list[np.ndarray[Any, Any]] = [np.empty(0, np.float32)] * len(unique)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(unique), "texts") as advance:
            for indices in length_batches(unique, batch_tokens):
                batch = TensorBatch.of(collate([unique[i] for i in indices], pad_id), device)
                values = batch_token_logp(model, batch).cpu().numpy()
                ends = np.cumsum([unique[i].num_answer for i in indices])[:-1]
                for index, part in zip(indices, np.split(values, ends), strict=True):
                    results[index] = part
                advance(len(indices))
    finally:
        model.train(was_training)
    return [results[place[item.ids, item.answer_start]] for item in items]
