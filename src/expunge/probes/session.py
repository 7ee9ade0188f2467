"""The session with one model, through which benchmarks and audits score texts and generate answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from expunge.data.sets import Sets
from expunge.data.templates import Encoded, Template
from expunge.distributed import map_over_ranks
from expunge.errors import IncompatibleError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.fsdp import fsdp_root
from expunge.modeling.load import context_length, pad_id_of
from expunge.probes.cache import ProbeCache
from expunge.probes.generation import generate_from
from expunge.probes.gradients import gradient_norms
from expunge.probes.requests import GenerationRequest, Key, ScoreRequest, TokenScores
from expunge.probes.scoring import score
from expunge.probes.vllm_engine import VllmEngine


@dataclass(frozen=True)
class Session:
    """Scoring and generation with one model; results for the same weights are cached.

    Args:
        model: The model, with or without an adapter.
        sets: Data sets on which the model may be measured.
        template: Converts questions and answers to tokens.
        batch_tokens: Padded tokens per forward pass.
        cache: Cache of results.
        label: Name of the model in progress bars.
        engine: Generates instead of torch, if not None.
    """

    model: Any
    sets: Sets
    template: Template
    batch_tokens: int
    cache: ProbeCache
    label: str
    engine: VllmEngine | None = None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.template.tokenizer

    @property
    def context(self) -> int:
        """Context length of the model in tokens."""
        return context_length(causal_lm(self.model).config)

    def score(self, requests: Sequence[ScoreRequest]) -> dict[Key, TokenScores]:
        """Score the answer tokens of each request; texts longer than the model's context are left out."""
        encoded, indices = self._encode(requests)
        hidden = any(request.hidden for request in requests)

        def run(missing: list[int], detail: list[bool]) -> list[TokenScores]:
            return map_over_ranks(
                lambda share: score(
                    causal_lm(self.model),
                    [encoded[indices[i]] for i, _ in share],
                    detail=[needs_detail for _, needs_detail in share],
                    hidden=hidden,
                    pad_id=pad_id_of(self.tokenizer),
                    batch_tokens=self.batch_tokens,
                    title=f"Scoring {self.label}",
                ),
                list(zip(missing, detail, strict=True)),
            )

        keys = [ProbeCache.key(encoded[i].ids, encoded[i].answer_start) for i in indices]
        cache = ProbeCache(None, None) if hidden else self.cache
        scores = cache.scores(keys, [requests[i].detail for i in indices], run)
        return {requests[i].key: token_scores for i, token_scores in zip(indices, scores, strict=True)}

    def gradient_norms(self, requests: Sequence[ScoreRequest]) -> dict[Key, float]:
        """Compute the gradient norm of each text's loss, for the same texts as `score`; results are not cached.

        Raises:
            IncompatibleError: The model is sharded.
        """
        if fsdp_root(self.model) is not None:
            raise IncompatibleError(
                "gradient_norm needs the full gradient of one text, but FSDP shards it over processes.",
                fix="Turn gradient_norm off here, and measure the saved model without FSDP: expunge evaluate.",
            )
        encoded, indices = self._encode(requests)
        norms = map_over_ranks(
            lambda share: gradient_norms(
                causal_lm(self.model),
                [encoded[i] for i in share],
                pad_id=pad_id_of(self.tokenizer),
                title=f"Gradients of {self.label}",
            ),
            indices,
        )
        return {requests[i].key: norm for i, norm in zip(indices, norms, strict=True)}

    def _encode(self, requests: Sequence[ScoreRequest]) -> tuple[list[Encoded], list[int]]:
        """Return each text as tokens, and the indices of the texts that fit into the context."""
        template = self.template.without_limit()
        encoded = []
        for request in requests:
            row = f"{request.set}/{request.index} {request.what}"
            encode = template.encode_raw if request.raw else template.encode
            encoded.append(encode(request.question, request.answer, row))
        limit = self.context
        return encoded, [i for i, item in enumerate(encoded) if len(item.ids) <= limit]

    def generate(
        self, requests: Sequence[GenerationRequest], scores: Mapping[Key, TokenScores] | None = None
    ) -> dict[Key, str]:
        """Generate the answer to each request; prompts that fill the model's context are left out.

        Answers lose surrounding whitespace, except for continuations of raw text.

        Args:
            requests: Requests for answers.
            scores: Detailed scores of the requests' drafts, by the same keys. A greedy answer that begins like its
                draft is generated from the first token in which the two differ.
        """
        answers: dict[Key, str] = {}
        for temperature in sorted({request.temperature for request in requests}):
            group = [request for request in requests if request.temperature == temperature]
            for request, ids in zip(group, self._generate_ids(group, temperature, scores or {}), strict=True):
                if ids is not None:
                    answers[request.key] = self.decode(request, ids)
        return answers

    def prompt_ids(self, request: GenerationRequest) -> list[int]:
        """Return the tokens of a request's prompt."""
        if request.raw:
            return self.template.raw_ids(request.question)
        return self.template.prompt_ids(request.question, request.turns, request.prefix)

    def decode(self, request: GenerationRequest, ids: Sequence[int]) -> str:
        """Return generated tokens as text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if request.raw else self.template.decode(ids)

    def _generate_ids(
        self, requests: Sequence[GenerationRequest], temperature: float, scores: Mapping[Key, TokenScores]
    ) -> list[list[int] | None]:
        # Many samples of one prompt encode it once.
        encoded: dict[GenerationRequest, list[int]] = {}
        prompts = []
        for request in requests:
            prompt = replace(request, what="", seed=0, draft="")
            if prompt not in encoded:
                encoded[prompt] = self.prompt_ids(request)
            prompts.append(encoded[prompt])

        def run(missing: list[int]) -> list[list[int] | None]:
            if self.engine is not None:
                return self.engine.generate(
                    [prompts[i] for i in missing],
                    max_new_tokens=[requests[i].max_new_tokens for i in missing],
                    eos_ids=end_ids(causal_lm(self.model), self.template),
                    temperature=temperature,
                    seeds=[requests[i].seed for i in missing],
                )
            return map_over_ranks(
                lambda share: generate_from(
                    causal_lm(self.model),
                    [prompts[i] for i in share],
                    [[] if temperature else self._matching_draft(requests[i], prompts[i], scores) for i in share],
                    max_new_tokens=[requests[i].max_new_tokens for i in share],
                    eos_ids=end_ids(causal_lm(self.model), self.template),
                    pad_id=pad_id_of(self.tokenizer),
                    batch_tokens=2 * self.batch_tokens,
                    title=f"Generating {self.label}",
                    temperature=temperature,
                    seeds=[requests[i].seed for i in share] if temperature else (),
                ),
                missing,
            )

        keys = [
            ProbeCache.key(prompt, request.max_new_tokens, temperature, request.seed if temperature else 0)
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        return self.cache.generations(keys, run)

    def _matching_draft(
        self, request: GenerationRequest, prompt: Sequence[int], scores: Mapping[Key, TokenScores]
    ) -> list[int]:
        """Return the first tokens of the draft, up to the first one that is not the model's most likely token."""
        scored = scores.get(request.key) if request.draft else None
        if scored is None or scored.top1 is None:
            return []
        draft = self.template.without_limit().encode(request.question, request.draft)
        # The scores apply only if the draft followed the same prompt and all its tokens were scored.
        if list(draft.ids[: draft.answer_start]) != list(prompt) or draft.ids[draft.answer_start :] != draft.targets:
            return []
        misses = np.flatnonzero(~scored.top1)
        return list(draft.targets[: misses[0] if len(misses) else len(draft.targets)])


def end_ids(model: Any, template: Template) -> list[int]:
    """Return the tokens that end an answer: the template's, and those of the model's generation config."""
    extra = getattr(model.generation_config, "eos_token_id", None)
    return sorted({*template.end_ids, *(extra if isinstance(extra, list) else [] if extra is None else [extra])})
