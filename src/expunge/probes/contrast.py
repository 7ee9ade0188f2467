"""Greedy decoding from the difference of two models, which share a batch and keep a cache of keys and values each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.distributed import map_over_ranks
from expunge.errors import IncompatibleError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.forward import vocab_size
from expunge.modeling.load import pad_id_of
from expunge.probes.generation import TokenSampler, generate_by
from expunge.probes.requests import GenerationRequest, Key
from expunge.probes.session import Session, end_ids


def contrast_scores(knowing: Tensor, other: Tensor, gamma: float, cutoff: float) -> Tensor:
    """Combine the predictions of two models so that what only the first one knows is favoured.

    Formula: gamma log p_t - (gamma - 1) log p_u for tokens with log p_t > max log p_t - cutoff, else -inf. Without the
    mask, a token that both models find impossible could win by its ratio. For u = t it is log p_t.

    Args:
        knowing: Logits of the model t that knows, shape (..., V).
        other: Logits of the other model u, shape (..., V).
        gamma: Weight of t, at least 1.
        cutoff: Greatest distance of a token's log-probability from that of the most likely one, in nats.

    Returns:
        Shape (..., V), in float32.

    References:
        arXiv:2505.24379 (gamma 2, cutoff 5); Li et al. 2023, arXiv:2210.15097 (contrastive decoding, the mask).
    """
    ours, theirs = knowing.float().log_softmax(-1), other.float().log_softmax(-1)
    plausible = ours > ours.amax(-1, keepdim=True) - cutoff
    return torch.where(plausible, gamma * ours - (gamma - 1) * theirs, -torch.inf)


class _ContrastSampler(TokenSampler):
    """A greedy sampler of the contrast of two models."""

    def __init__(self, gamma: float, cutoff: float) -> None:
        super().__init__(0.0, [])
        self._gamma, self._cutoff = gamma, cutoff

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the contrast of the first model and the second."""
        knowing, other = logits
        return contrast_scores(knowing, other, self._gamma, self._cutoff)


def generate_contrast(
    knowing: Session, other: Session, requests: Sequence[GenerationRequest], *, gamma: float, cutoff: float
) -> dict[Key, str]:
    """Generate the answer to each request from the difference of two models; results are not cached.

    Args:
        knowing: Session with the model t that knows; its template makes the prompts.
        other: Session with the other model u.
        requests: Greedy requests; drafts are not used.
        gamma: As in `contrast_scores`.
        cutoff: As in `contrast_scores`.

    Returns:
        Key of the request -> answer; prompts that fill the context of a model are left out.

    Raises:
        IncompatibleError: The models have vocabularies of different sizes, or a request samples.
    """
    models = [causal_lm(knowing.model), causal_lm(other.model)]
    sizes = [vocab_size(model) for model in models]
    if sizes[0] != sizes[1]:
        raise IncompatibleError(
            f"{knowing.label} has a vocabulary of {sizes[0]} tokens and {other.label} one of {sizes[1]}, so that their "
            "predictions cannot be combined.",
            fix="Give models with the same vocabulary.",
        )
    if any(request.temperature for request in requests):
        raise ValueError("generate_contrast is greedy; requests must have the temperature 0")
    prompts = [knowing.prompt_ids(request) for request in requests]
    answers = map_over_ranks(
        lambda share: generate_by(
            models,
            lambda batch: _ContrastSampler(gamma, cutoff),
            [prompts[i] for i in share],
            max_new_tokens=[requests[i].max_new_tokens for i in share],
            eos_ids=end_ids(models[0], knowing.template),
            pad_id=pad_id_of(knowing.tokenizer),
            batch_tokens=knowing.batch_tokens,
            title=f"Generating from {knowing.label} and {other.label}",
        ),
        range(len(requests)),
    )
    return {
        request.key: knowing.decode(request, ids)
        for request, ids in zip(requests, answers, strict=True)
        if ids is not None
    }
