"""Batched generation: prompts of similar length are decoded together, and finished rows leave the batch early.

This needs a model whose state is a cache of keys and values and which accepts padding on the left. Others generate
with their own `generate`, or without a cache; a trial finds out (`_mode_of`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from expunge.console import note, progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import (
    MODEL_ERRORS,
    decode,
    head_of,
    hooks_disabled,
    in_float32,
    length_limits,
    output_path,
    same_logp,
    trial_ids,
)
from expunge.modeling.load import context_length

COMPACT_SHARE = 0.25
"""Share of finished rows in a batch from which on they are removed from it."""
_SHORT_TRIAL = 5
"""Tokens of a prompt and its answer in the trial of every model."""


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
    budgets = [min(max_new, limit - len(prompt)) for prompt, max_new in zip(prompts, max_new_tokens, strict=True)]
    was_training = model.training
    model.eval()
    try:
        with progress(title, len(pending), "answers") as advance:
            for mode, members in _by_mode(model, pending, prompts, budgets).items():
                while members:
                    width = len(prompts[members[0]])
                    size = max(1, batch_tokens // (width + budgets[members[0]]))
                    # Padding must not push a row beyond the context, since some models count positions by column.
                    together = [
                        len(prompts[i]) == width or (mode.batches == "any" and width + budgets[i] <= limit)
                        for i in members[: 1 if mode.batches == "single" else size]
                    ]
                    batch = members[: (*together, False).index(False)]
                    members = members[len(batch) :]
                    sampler = _TokenSampler(temperature, [seeds[i] for i in batch] if temperature else [])
                    answers = mode.generate(
                        model, [prompts[i] for i in batch], [budgets[i] for i in batch], set(eos_ids), pad_id, sampler
                    )
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
        self.is_greedy = not temperature
        self._streams = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        if not self._temperature:
            return logits.argmax(-1)
        uniform = torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64).to(logits.device)
        cumulative = (logits.double() / self._temperature).softmax(-1).cumsum(-1)
        # Scaled by the last sum, which rounding leaves slightly off 1, so that no sample exceeds the vocabulary.
        threshold = uniform[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


class _Recorder(_TokenSampler):
    """A greedy sampler that records the logits of each row."""

    def __init__(self) -> None:
        super().__init__(0.0, [])
        self.is_greedy = False
        self.logits: dict[int, list[Tensor]] = {}

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        for row, values in zip(rows, logits, strict=True):
            self.logits.setdefault(row, []).append(values.float())
        return logits.argmax(-1)


@dataclass(frozen=True)
class _Mode:
    """A way to generate."""

    generate: Callable[..., list[list[int]]]
    """Takes the arguments of `_generate_batch`."""
    batches: Literal["any", "same length", "single"]
    """Which prompts can be in one batch."""
    note: str
    """Differences from the fastest mode."""


def _by_mode(
    model: Any, members: Sequence[int], prompts: Sequence[Sequence[int]], budgets: Sequence[int]
) -> dict[_Mode, list[int]]:
    """Return the indices in `members`, in their order, by the mode that generates them.

    Prompts whose answers may exceed another limit of the model, such as a sliding window, have a trial of their own.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in members:
        total = len(prompts[index]) + budgets[index]
        groups.setdefault(tuple(length_limits(model, _SHORT_TRIAL, total)), []).append(index)
    modes: dict[_Mode, list[int]] = {}
    for limits, group in groups.items():
        mode = _mode_of(model, limits, max(len(prompts[index]) + budgets[index] for index in group))
        modes.setdefault(mode, []).extend(group)
    return {mode: [index for index in members if index in set(group)] for mode, group in modes.items()}


def _mode_of(model: Any, limits: tuple[int, ...], longest: int) -> _Mode:
    """Return the first mode whose logits are those of the forward pass, from a trial of this length or a greater one.

    Args:
        model: The model.
        limits: Limits of the model that the answers exceed.
        longest: Tokens of the longest prompt and answer.
    """
    trials: dict[tuple[int, ...], tuple[str, int]] = vars(model).setdefault("_generation_modes", {})
    name, tested = trials.get(limits, ("cache", 0))
    if tested == 0 or (limits and longest > tested):
        names = list(_MODES)
        with hooks_disabled(model), in_float32(model):
            # A mode that failed in shorter rows is not tried again; the last needs no trial.
            untried = (
                name for name in names[names.index(name) : -1] if _is_right(model, _MODES[name], limits, longest)
            )
            name = next(untried, names[-1])
        trials[limits] = (name, longest)
    mode = _MODES[name]
    if mode.note:
        _note_mode(type(model).__name__, mode)
    return mode


@functools.cache
def _note_mode(name: str, mode: _Mode) -> None:
    note(f"{name}: {mode.note}")


def _is_right(model: Any, mode: _Mode, limits: Sequence[int], longest: int) -> bool:
    """Return whether the logits of a mode equal those of a forward pass over the same tokens.

    The trial has a row of the greatest length and rows whose prompts end just before each limit. Half of the rows end
    after one token, so that they leave the batch.
    """
    lengths = [max(4, longest - 3), 4, *(4 for _ in limits), 2, 3, *(limit - 1 for limit in limits)]
    budgets = [1 if row < len(lengths) // 2 else 3 for row in range(len(lengths))]
    if mode.batches == "any":
        batches = [(lengths, budgets)]
    else:
        count = 1 if mode.batches == "single" else 2
        batches = [([length] * count, [3] * count) for length in lengths]
    return all(_is_right_on(model, mode, *batch) for batch in batches)


def _is_right_on(model: Any, mode: _Mode, lengths: Sequence[int], budgets: Sequence[int]) -> bool:
    """Return whether the logits of a mode are right for one batch of arbitrary prompts."""
    prompts = [trial_ids(model, length, start=5 * length + row).tolist() for row, length in enumerate(lengths)]
    recorder = _Recorder()
    try:
        answers = mode.generate(model, prompts, budgets, set(), 0, recorder)
    except MODEL_ERRORS:
        return False
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    expected = _answer_logits(model, rows, lengths)
    recorded = [torch.stack(recorder.logits[row][:budget]) for row, budget in enumerate(budgets)]
    return all(
        same_logp(model, actual.log_softmax(-1), logits.log_softmax(-1))
        for actual, logits in zip(recorded, expected, strict=True)
    )


def _answer_logits(model: Any, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Tensor]:
    """Return the logits that predict the tokens of each row from its start on."""
    batch = TensorBatch.of(collate([Encoded(tuple(row), 1) for row in rows], 0), next(model.parameters()).device)
    hidden = decode(model, batch)
    head = head_of(model)
    return [head(hidden[i, start - 1 : len(row) - 1]) for i, (row, start) in enumerate(zip(rows, starts, strict=True))]


def _generate_own(
    model: Any,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: _TokenSampler,
) -> list[list[int]]:
    """Generate with the model's own `generate`, from prompts of one length, so that nothing is padded."""

    def sample(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = sampler(scores, range(len(scores)))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    if max(budgets) < 1:
        return [[] for _ in prompts]
    ids = torch.tensor(prompts, device=next(model.parameters()).device)
    with _plain_settings(model):
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max(budgets),
            do_sample=False,
            eos_token_id=sorted(eos_ids) or None,
            pad_token_id=pad_id,
            logits_processor=[] if sampler.is_greedy else [sample],
        )
    answers = []
    for row, budget in zip(output[:, ids.shape[1] :].tolist(), budgets, strict=True):
        end = next((position for position, token in enumerate(row) if token in eos_ids), len(row))
        answers.append(row[: min(end, budget)])
    return answers


@contextlib.contextmanager
def _plain_settings(model: Any) -> Iterator[None]:
    """Replace the model's generation settings, such as a repetition penalty, by the defaults inside the context."""
    settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = settings


def _generate_again(
    model: Any,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: _TokenSampler,
) -> list[list[int]]:
    """Generate without a cache: every token takes a forward pass over the whole row."""
    rows = [list(prompt) for prompt in prompts]
    active = [row for row, budget in enumerate(budgets) if budget > 0]
    while active:
        current = [rows[row] for row in active]
        # One token is appended, because logits are those that predict a token of the row.
        logits = _answer_logits(model, [[*row, pad_id] for row in current], [len(row) for row in current])
        for row, token in zip(list(active), sampler(torch.cat(logits), active).tolist(), strict=True):
            if token in eos_ids:
                active.remove(row)
                continue
            rows[row].append(token)
            if len(rows[row]) - len(prompts[row]) >= budgets[row]:
                active.remove(row)
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def _generate_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: _TokenSampler,
) -> list[list[int]]:
    """Generate with a cache of keys and values."""
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
    takes_positions = output_path(model).positions
    tokens, positions = ids, (mask.cumsum(1) - 1).clamp(min=0)
    while len(done) < len(prompts):
        next_tokens = sampler(
            model(
                input_ids=tokens,
                attention_mask=mask,
                **({"position_ids": positions} if takes_positions else {}),
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
            # Beam search's reordering, because `batch_select_indices` is missing for recurrent states.
            cache.reorder_cache(unfinished)
            tokens, positions, mask = tokens[unfinished], positions[unfinished], mask[unfinished]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return answers


_MODES = {
    "cache": _Mode(_generate_batch, "any", note=""),
    "own": _Mode(
        _generate_own,
        "same length",
        note="answers are generated by the model's own generate, for prompts of one length at a time, which is slower.",
    ),
    "own, single": _Mode(
        _generate_own,
        "single",
        note="answers are generated by the model's own generate, for one prompt at a time, which is slow.",
    ),
    "recompute": _Mode(
        _generate_again,
        "any",
        note="answers are generated without a cache, because with one the model predicts otherwise, which is slow.",
    ),
}
"""In the order in which they are tried."""
