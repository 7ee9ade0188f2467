"""Batched generation: prompts of similar length are decoded together, and finished rows leave the batch early.

Answers whose tokens are equal so far, from the prompt on, are one branch, which the model computes once: many samples
of one prompt share its forward pass.

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
"""Share of finished branches in a batch from which on they are removed from it."""
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
    return generate_by(
        [model],
        lambda batch: TokenSampler(temperature, [seeds[i] for i in batch] if temperature else []),
        prompts,
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        pad_id=pad_id,
        batch_tokens=batch_tokens,
        title=title,
    )


@torch.no_grad()
def generate_by(
    models: Sequence[Any],
    sampler_of: Callable[[Sequence[int]], TokenSampler],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    eos_ids: Sequence[int],
    pad_id: int,
    batch_tokens: int,
    title: str,
) -> list[list[int] | None]:
    """Generate a continuation of each prompt by a rule that may combine the predictions of several models.

    Args:
        models: Causal language models with the same tokens.
        sampler_of: Indices of the prompts of a batch -> sampler of the next token of its rows.
        prompts: As in `generate`, and so are the remaining arguments.
        max_new_tokens: Maximum number of new tokens, per prompt.
        eos_ids: Tokens that end an answer.
        pad_id: Padding id.
        batch_tokens: Maximum number of padded tokens in a batch.
        title: Title of the progress bar.

    Returns:
        As `generate`; None if the prompt fills the context of one of the models.
    """
    limit = min(context_length(model.config) for model in models)
    results: list[list[int] | None] = [None] * len(prompts)
    pending = [i for i in range(len(prompts)) if len(prompts[i]) < limit]
    # Equal prompts are neighbours, so that they share a batch.
    pending.sort(key=lambda i: (len(prompts[i]), max_new_tokens[i], tuple(prompts[i])), reverse=True)
    budgets = [min(max_new, limit - len(prompt)) for prompt, max_new in zip(prompts, max_new_tokens, strict=True)]
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with progress(title, len(pending), "answers") as advance:
            for mode, members in _by_mode(models, pending, prompts, budgets).items():
                while members:
                    width = len(prompts[members[0]])
                    size = max(1, batch_tokens // (width + budgets[members[0]]))
                    # Padding must not push a row beyond the context, since some models count positions by column.
                    together = [
                        len(prompts[i]) == width or (mode.batches == "any" and width + budgets[i] <= limit)
                        for i in members[: 1 if mode.batches == "single" else size]
                    ]
                    batch = _whole_prompts(members, (*together, False).index(False), prompts)
                    members = members[len(batch) :]
                    answers = mode.generate(
                        models,
                        [prompts[i] for i in batch],
                        [budgets[i] for i in batch],
                        set(eos_ids),
                        pad_id,
                        sampler_of(batch),
                    )
                    for index, answer in zip(batch, answers, strict=True):
                        results[index] = answer
                    advance(len(batch))
    finally:
        for model, was_training in zip(models, modes, strict=True):
            model.train(was_training)
    return results


def _whole_prompts(members: Sequence[int], size: int, prompts: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the first members, at most `size`, without splitting the samples of a prompt that would fit in a batch."""
    if size < len(members) and prompts[members[size - 1]] == prompts[members[size]]:
        last = prompts[members[size]]
        start = next(i for i in range(size) if prompts[members[i]] == last)
        if start > 0:
            return members[:start]
    return members[:size]


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


class TokenSampler:
    """Sampler of the next token of each row: greedy, or by a uniform number from the row's own random stream."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self.is_greedy = not temperature
        self._streams = [np.random.default_rng(seed) for seed in seeds]

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the (B, V) values by which tokens are chosen, from the logits of each model; here those of one."""
        (only,) = logits
        return only

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the next token of each row from the result of `combine`.

        Args:
            logits: (B, V).
            rows: Number of each row in its batch, shape (B,).
        """
        if not self._temperature:
            return logits.argmax(-1)
        uniform = torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64).to(logits.device)
        cumulative = (logits.double() / self._temperature).softmax(-1).cumsum(-1)
        # Scaled by the last sum, which rounding leaves slightly off 1, so that no sample exceeds the vocabulary.
        threshold = uniform[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


class _Recorder(TokenSampler):
    """A sampler that records the logits of each row.

    It chooses the most likely token for even rows and the second for odd ones, so that equal prompts continue
    differently.
    """

    def __init__(self) -> None:
        super().__init__(0.0, [])
        self.is_greedy = False
        self.logits: dict[int, list[Tensor]] = {}

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        for row, values in zip(rows, logits, strict=True):
            self.logits.setdefault(row, []).append(values.float())
        best = logits.topk(2, dim=-1).indices
        return best[torch.arange(len(rows)), torch.tensor(rows) % 2]


@dataclass(frozen=True)
class _Mode:
    """A way to generate."""

    generate: Callable[..., list[list[int]]]
    """Takes the arguments of `_generate_batch`."""
    batches: Literal["any", "same length", "single"]
    """Which prompts can be in one batch."""
    combines: bool
    """Whether the predictions of several models can be combined."""
    note: str
    """Differences from the fastest mode."""


def _by_mode(
    models: Sequence[Any], members: Sequence[int], prompts: Sequence[Sequence[int]], budgets: Sequence[int]
) -> dict[_Mode, list[int]]:
    """Return the indices in `members`, in their order, by the mode that generates them.

    Prompts whose answers may exceed another limit of a model, such as a sliding window, have a trial of their own.
    """
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index in members:
        total = len(prompts[index]) + budgets[index]
        limits = tuple(tuple(length_limits(model, _SHORT_TRIAL, total)) for model in models)
        groups.setdefault(limits, []).append(index)
    modes: dict[_Mode, list[int]] = {}
    for limits, group in groups.items():
        longest = max(len(prompts[index]) + budgets[index] for index in group)
        first, *others = (_mode_of(model, exceeded, longest) for model, exceeded in zip(models, limits, strict=True))
        # A model's own `generate` does not know of other models.
        is_common = not others or (first.combines and all(other is first for other in others))
        modes.setdefault(first if is_common else _MODES["recompute"], []).extend(group)
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
    after one token, so that they leave the batch; the last two have the same prompt and continue differently.
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
    if mode.batches == "any":
        prompts, budgets, lengths = [*prompts, prompts[-1]], [*budgets, budgets[-1]], [*lengths, lengths[-1]]
    recorder = _Recorder()
    try:
        answers = mode.generate([model], prompts, budgets, set(), 0, recorder)
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
    models: Sequence[Any],
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: TokenSampler,
) -> list[list[int]]:
    """Generate with the model's own `generate`, from prompts of one length, so that nothing is padded."""
    (model,) = models

    def sample(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = sampler(sampler.combine([scores]), range(len(scores)))
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
    models: Sequence[Any],
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: TokenSampler,
) -> list[list[int]]:
    """Generate without a cache: every token takes a forward pass over the whole row."""
    rows = [list(prompt) for prompt in prompts]
    active = [row for row, budget in enumerate(budgets) if budget > 0]
    while active:
        current = [rows[row] for row in active]
        # One token is appended, because logits are those that predict a token of the row.
        extended, ends = [[*row, pad_id] for row in current], [len(row) for row in current]
        logits = sampler.combine([torch.cat(_answer_logits(model, extended, ends)) for model in models])
        for row, token in zip(list(active), sampler(logits, active).tolist(), strict=True):
            if token in eos_ids:
                active.remove(row)
                continue
            rows[row].append(token)
            if len(rows[row]) - len(prompts[row]) >= budgets[row]:
                active.remove(row)
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


class _CachedModel:
    """A model that runs one token per branch after another, with its cache of keys and values."""

    def __init__(self, model: Any) -> None:
        self._model, self._cache = model, DynamicCache(config=model.config)
        self._takes_positions = output_path(model).positions

    def __call__(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the (B, V) logits after new (B, L) tokens; the (B, L') mask covers the tokens before as well."""
        logits: Tensor = self._model(
            input_ids=tokens,
            attention_mask=mask,
            **({"position_ids": positions} if self._takes_positions else {}),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def select(self, branches: Tensor) -> None:
        """Keep the branches with these numbers, in this order; a repeated number copies its branch."""
        # Beam search's reordering, because `batch_select_indices` is missing for recurrent states.
        self._cache.reorder_cache(branches)


def _generate_batch(
    models: Sequence[Any],
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    eos_ids: set[int],
    pad_id: int,
    sampler: TokenSampler,
) -> list[list[int]]:
    """Generate with a cache of keys and values; rows whose tokens are equal so far share their forward passes."""
    device = next(models[0].parameters()).device
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        if budgets[row] > 0:
            by_prompt.setdefault(tuple(prompt), []).append(row)
    answers: list[list[int]] = [[] for _ in prompts]
    # The rows of each branch; a branch without rows has ended.
    branches = list(by_prompt.values())
    if not branches:
        return answers
    tokens, mask = _pad_left(list(by_prompt), pad_id, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cached = [_CachedModel(model) for model in models]
    while True:
        logits = sampler.combine([model(tokens, mask, positions) for model in cached])
        rows = [row for members in branches for row in members]
        parents = [branch for branch, members in enumerate(branches) for _ in members]
        chosen = sampler(logits if parents == list(range(len(branches))) else logits[parents], rows).tolist()
        continued: dict[tuple[int, int], list[int]] = {}
        for row, parent, token in zip(rows, parents, chosen, strict=True):
            if token in eos_ids:
                continue
            answers[row].append(token)
            if len(answers[row]) < budgets[row]:
                continued.setdefault((parent, token), []).append(row)
        if not continued:
            return answers
        sources = [parent for parent, _ in continued]
        num_ended = len(branches) - len(set(sources))
        if len(sources) > len(set(sources)) or num_ended >= COMPACT_SHARE * len(branches):
            selected = torch.tensor(sources, device=device)
            for model in cached:
                model.select(selected)
            positions, mask = positions[selected], mask[selected]
            branches, following = list(continued.values()), [token for _, token in continued]
        else:
            # A few ended branches stay in the batch, because removing them copies the cache.
            following = [pad_id] * len(branches)
            branches = [[] for _ in branches]
            for (parent, token), members in continued.items():
                branches[parent], following[parent] = members, token
        tokens, positions = torch.tensor(following, device=device)[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def _pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (B, L) token ids and their mask, with padding on the left, so that all rows end at the same position."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


_MODES = {
    "cache": _Mode(_generate_batch, "any", combines=True, note=""),
    "own": _Mode(
        _generate_own,
        "same length",
        combines=False,
        note="answers are generated by the model's own generate, for prompts of one length at a time and with one "
        "forward pass of the prompt per sample, which is slower.",
    ),
    "own, single": _Mode(
        _generate_own,
        "single",
        combines=False,
        note="answers are generated by the model's own generate, for one prompt at a time, which is slow.",
    ),
    "recompute": _Mode(
        _generate_again,
        "any",
        combines=True,
        note="answers are generated without a cache, because with one the model predicts otherwise, which is slow.",
    ),
}
"""In the order in which they are tried."""
