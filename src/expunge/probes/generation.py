"""Lets a model answer prompts greedily: batches of similar length, and no work on answers that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from expunge.console import progress
from expunge.modeling.load import context_length

COMPACT_SHARE = 0.25
"""Finished rows are taken out of a batch once they are this share of it."""


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
) -> list[list[int] | None]:
    """Greedy continuation of each prompt, without the end-of-sequence token.

    Args:
        model: A causal language model; its mode is restored afterwards.
        prompts: Token ids of each prompt.
        max_new_tokens: At most this many new tokens, per prompt.
        eos_ids: Tokens that end an answer.
        pad_id: Id written into padding.
        batch_tokens: Padded tokens, prompt and answer together, that a batch may reach.
        title: What the progress bar says.

    Returns:
        Token ids per prompt, in order; None where the prompt leaves no room in the model's context.
    """
    limit = context_length(model.config)
    results: list[list[int] | None] = [None] * len(prompts)
    fitting = [i for i in range(len(prompts)) if len(prompts[i]) < limit]
    fitting.sort(key=lambda i: (len(prompts[i]), max_new_tokens[i]), reverse=True)
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(fitting), "answers") as advance:
            while fitting:
                first = fitting[0]
                room = batch_tokens // (len(prompts[first]) + min(max_new_tokens[first], limit))
                chosen, fitting = fitting[: max(1, room)], fitting[max(1, room) :]
                budget = [min(max_new_tokens[i], limit - len(prompts[i])) for i in chosen]
                answers = _greedy(model, [prompts[i] for i in chosen], budget, set(eos_ids), pad_id)
                for index, answer in zip(chosen, answers, strict=True):
                    results[index] = answer
                advance(len(chosen))
    finally:
        model.train(was_training)
    return results


def _greedy(
    model: Any, prompts: Sequence[Sequence[int]], budget: Sequence[int], eos_ids: set[int], pad_id: int
) -> list[list[int]]:
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    answers: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    done: set[int] = {row for row in alive if budget[row] < 1}
    cache = DynamicCache(config=model.config)
    tokens, positions = ids, (mask.cumsum(1) - 1).clamp(min=0)
    while len(done) < len(prompts):
        chosen = _next(model, tokens, mask, positions, cache)
        for row, token in zip(alive, chosen.tolist(), strict=True):
            if row in done:
                continue
            if token in eos_ids:
                done.add(row)
                continue
            answers[row].append(token)
            if len(answers[row]) >= budget[row]:
                done.add(row)
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        finished = sum(row in done for row in alive)
        if finished >= COMPACT_SHARE * len(alive) and finished < len(alive):
            keep = torch.tensor([i for i, row in enumerate(alive) if row not in done], device=device)
            alive = [row for row in alive if row not in done]
            cache.batch_select_indices(keep)
            tokens, positions, mask = tokens[keep], positions[keep], mask[keep]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return answers


def _next(model: Any, tokens: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].argmax(-1)  # type: ignore[no-any-return]
