"""Batched generation: prompts of similar length are decoded together, and finished rows leave the batch early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from expunge.console import progress
from expunge.modeling.load import context_length

COMPACT_SHARE = 0.25
"""Share of finished rows in a batch from which on they are removed from it."""


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    eos_ids: Sequence[int],
    pad_id: int,
    batch_tokens: int,
    title: str = "Generating",
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
) -> list[list[int] | None]:
    """Generate a continuation of each prompt, without the end-of-sequence token.

    Args:
        model: A causal language model; its mode is restored afterwards.
        prompts: Token ids of each prompt.
        max_new_tokens: Maximum number of new tokens, per prompt.
        eos_ids: Tokens that end an answer.
        pad_id: Padding id.
        batch_tokens: Maximum number of padded tokens in a batch, prompts and answers together.
        title: Title of the progress bar.
        temperature: 0 for greedy decoding; above 0, tokens are sampled from softmax(logits / temperature).
        seeds: One per prompt if the temperature is above 0. The tokens sampled for a prompt depend on its own seed
            alone, not on its batch, order or process.

    Returns:
        Token ids per prompt, in order; None if the prompt fills the model's context.
    """
    if temperature < 0 or (temperature and len(seeds) != len(prompts)):
        raise ValueError("temperature must be at least 0, and sampling (above 0) needs one seed per prompt")
    limit = context_length(model.config)
    results: list[list[int] | None] = [None] * len(prompts)
    pending = [i for i in range(len(prompts)) if len(prompts[i]) < limit]
    pending.sort(key=lambda i: (len(prompts[i]), max_new_tokens[i]), reverse=True)
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(pending), "answers") as advance:
            while pending:
                longest = pending[0]
                size = max(1, batch_tokens // (len(prompts[longest]) + min(max_new_tokens[longest], limit)))
                batch, pending = pending[:size], pending[size:]
                budgets = [min(max_new_tokens[i], limit - len(prompts[i])) for i in batch]
                sampler = _TokenSampler(temperature, [seeds[i] for i in batch] if temperature else [])
                answers = _generate_batch(model, [prompts[i] for i in batch], budgets, set(eos_ids), pad_id, sampler)
                for index, answer in zip(batch, answers, strict=True):
                    results[index] = answer
                advance(len(batch))
    finally:
        model.train(was_training)
    return results


def generate_from(
    model: Any,
    prompts: Sequence[Sequence[int]],
    starts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    eos_ids: Sequence[int],
    **settings: Any,
) -> list[list[int] | None]:
    """Generate greedy answers whose first tokens are known, processing these with the prompt in one forward pass.

    Args:
        model: As in `generate`.
        prompts: As in `generate`.
        starts: Known first tokens of each greedy answer; they may include the end-of-sequence token.
        max_new_tokens: As in `generate`; the known tokens count as well.
        eos_ids: As in `generate`.
        settings: The remaining arguments of `generate`.

    Returns:
        The full answers including the known tokens, equal to those of `generate`.
    """
    limit, ends = context_length(model.config), set(eos_ids)
    results: list[list[int] | None] = []
    for prompt, start, max_new in zip(prompts, starts, max_new_tokens, strict=True):
        end = next((position for position, token in enumerate(start) if token in ends), len(start))
        budget = max(0, min(max_new, limit - len(prompt)))
        is_finished = bool(start) and (end < len(start) or end >= budget)
        results.append(list(start[: min(end, budget)]) if is_finished else None)
    unfinished = [i for i, answer in enumerate(results) if answer is None]
    continuations = generate(
        model,
        [[*prompts[i], *starts[i]] for i in unfinished],
        max_new_tokens=[max_new_tokens[i] - len(starts[i]) for i in unfinished],
        eos_ids=eos_ids,
        **settings,
    )
    for i, continuation in zip(unfinished, continuations, strict=True):
        results[i] = None if continuation is None else [*starts[i], *continuation]
    return results


class _TokenSampler:
    """Sampler of the next token of each row: greedy, or by a uniform number from the row's own random stream."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._streams = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        if not self._temperature:
            return logits.argmax(-1)
        uniform = torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64).to(logits.device)
        cumulative = (logits.double() / self._temperature).softmax(-1).cumsum(-1)
        # Scaled by the last sum, which rounding leaves slightly off 1, so that no sample exceeds the vocabulary.
        threshold = uniform[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def _generate_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: _TokenSampler,
) -> list[list[int]]:
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        # Padding is on the left, so that all rows continue at the same position.
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    answers: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    done: set[int] = {row for row in active if budgets[row] < 1}
    cache = DynamicCache(config=model.config)
    tokens, positions = ids, (mask.cumsum(1) - 1).clamp(min=0)
    while len(done) < len(prompts):
        next_tokens = sampler(
            model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1],
            active,
        )
        for row, token in zip(active, next_tokens.tolist(), strict=True):
            if row in done:
                continue
            if token in eos_ids:
                done.add(row)
                continue
            answers[row].append(token)
            if len(answers[row]) >= budgets[row]:
                done.add(row)
        tokens, positions = next_tokens[:, None], positions[:, -1:] + 1
        num_finished = sum(row in done for row in active)
        if num_finished >= COMPACT_SHARE * len(active) and num_finished < len(active):
            unfinished = torch.tensor([i for i, row in enumerate(active) if row not in done], device=device)
            active = [row for row in active if row not in done]
            cache.batch_select_indices(unfinished)
            tokens, positions, mask = tokens[unfinished], positions[unfinished], mask[unfinished]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return answers
