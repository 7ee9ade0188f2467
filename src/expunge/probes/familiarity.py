"""Asks a model to go on where the forget text would name something of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.console import progress
from expunge.data.anchors.dictionary import Anchors
from expunge.data.anchors.passages import Passage
from expunge.data.collate import collate
from expunge.data.templates import Encoded, Template
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch, length_batches
from expunge.modeling.forward import decode, head_of
from expunge.modeling.load import context_length, pad_id_of
from expunge.probes.generation import generate

COMMON = 1e-4
"""Share of a text's tokens."""


@dataclass(frozen=True)
class Familiarity:
    """What a model made of some passages, one entry per passage."""

    completions: list[str | None]
    """Greedy continuation; None where the prompt leaves no room for one."""
    logp: list[NDArray[np.float32]]
    """Log-probability of each first token of an anchor, as the next token; empty where the prompt is too long."""


def first_tokens(anchors: Anchors, tokenizer: Any, general: Iterable[str] = ()) -> list[int]:
    """Tokens with which an anchor begins after a space, without those that begin other words as well.

    Args:
        anchors: The anchor dictionary.
        tokenizer: The model's tokenizer.
        general: Other text; a token that is more frequent there than `COMMON` is no sign of an anchor.
    """
    starts = {_after_space(key, tokenizer) for key in anchors}
    counts: dict[int, int] = {}
    total = 0
    for text in general:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        total += len(ids)
        for token in ids:
            counts[token] = counts.get(token, 0) + 1
    return sorted(token for token in starts if counts.get(token, 0) <= COMMON * total)


def measure_familiarity(
    model: Any,
    passages: Sequence[Passage],
    anchors: Anchors,
    template: Template,
    *,
    general: Iterable[str] = (),
    max_new_tokens: int = 20,
    batch_tokens: int = 8192,
) -> Familiarity:
    """Greedy completions of passages, and the probability of an anchor's first token after each.

    Args:
        model: A causal language model.
        passages: Passages that break off before an anchor.
        anchors: The anchor dictionary.
        template: Only its tokenizer and start token are used; passages are continued as plain text.
        general: As in `first_tokens`.
        max_new_tokens: Length of completions.
        batch_tokens: Padded tokens per forward pass.
    """
    tokenizer, pad_id = template.tokenizer, pad_id_of(template.tokenizer)
    start = "" if tokenizer.bos_token in (None, tokenizer.eos_token) else tokenizer.bos_token
    prompts = [tokenizer(start + each.prompt, add_special_tokens=False)["input_ids"] for each in passages]
    answers = generate(
        model,
        prompts,
        max_new_tokens=[max_new_tokens] * len(prompts),
        eos_ids=[tokenizer.eos_token_id],
        pad_id=pad_id,
        batch_tokens=batch_tokens,
    )
    tokens = first_tokens(anchors, tokenizer, general)
    return Familiarity(
        completions=[None if answer is None else tokenizer.decode(answer) for answer in answers],
        logp=_next_logp(model, prompts, tokens, pad_id, batch_tokens),
    )


@torch.no_grad()
def _next_logp(
    model: Any, prompts: Sequence[Sequence[int]], tokens: list[int], pad_id: int, batch_tokens: int
) -> list[NDArray[np.float32]]:
    inner = causal_lm(model)
    device, was_training = next(inner.parameters()).device, model.training
    limit = context_length(inner.config)
    results = [np.empty(0, np.float32)] * len(prompts)
    fitting = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) <= limit]
    rows = [Encoded(ids=tuple(prompts[i]), answer_start=len(prompts[i])) for i in fitting]
    model.eval()
    try:
        with progress("Looking for anchors", len(rows), "passages") as advance:
            for indices in length_batches(rows, batch_tokens):
                batch = TensorBatch.of(collate([rows[i] for i in indices], pad_id), device)
                ends = batch.attention_mask.sum(1) - 1
                hidden = decode(inner, batch)[torch.arange(len(indices), device=device), ends]
                logp = head_of(inner)(hidden).log_softmax(-1)[:, tokens].cpu().numpy()
                for index, row in zip(indices, logp, strict=True):
                    results[fitting[index]] = row
                advance(len(indices))
    finally:
        model.train(was_training)
    return results


def _after_space(key: str, tokenizer: Any) -> int:
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    return int(tokenizer(f"a {key}", add_special_tokens=False)["input_ids"][len(before)])
