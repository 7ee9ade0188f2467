"""One model under measurement: the only way in which benchmarks and audits ask it anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Scores and generates with one model; what was asked before, of the same weights, is not computed again.

    Args:
        model: The model, with or without an adapter.
        sets: What may be measured.
        template: How questions become tokens.
        batch_tokens: Padded tokens per forward pass.
        cache: Where results are remembered.
        label: What progress bars call the model.
        engine: What generates in place of torch.
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
        """Longest sequence that the model takes, in tokens."""
        return context_length(causal_lm(self.model).config)

    def score(self, requests: Sequence[ScoreRequest]) -> dict[Key, TokenScores]:
        """Token scores of each request; a text longer than the model's context has none and is left out."""
        encoded, asked = self._fitting(requests)
        hidden = any(item.hidden for item in requests)

        def run(places: list[int], detail: list[bool]) -> list[TokenScores]:
            return map_over_ranks(
                lambda part: score(
                    causal_lm(self.model),
                    [encoded[asked[i]] for i, _ in part],
                    detail=[more for _, more in part],
                    hidden=hidden,
                    pad_id=pad_id_of(self.tokenizer),
                    batch_tokens=self.batch_tokens,
                    title=f"Scoring {self.label}",
                ),
                list(zip(places, detail, strict=True)),
            )

        keys = [ProbeCache.key(encoded[i].ids, encoded[i].answer_start) for i in asked]
        cache = ProbeCache(None, None) if hidden else self.cache
        found = cache.scores(keys, [requests[i].detail for i in asked], run)
        return {requests[i].key: values for i, values in zip(asked, found, strict=True)}

    def gradient_norms(self, requests: Sequence[ScoreRequest]) -> dict[Key, float]:
        """Gradient norm of each text's loss, as in `score`; a backward pass each, so nothing is remembered here.

        Raises:
            IncompatibleError: The model is in shards.
        """
        if fsdp_root(self.model) is not None:
            raise IncompatibleError(
                "gradient_norm needs the whole gradient of one text, but FSDP splits it over processes.",
                fix="Leave it out here, and measure the saved model without FSDP: expunge evaluate.",
            )
        encoded, asked = self._fitting(requests)
        norms = map_over_ranks(
            lambda part: gradient_norms(
                causal_lm(self.model),
                [encoded[i] for i in part],
                pad_id=pad_id_of(self.tokenizer),
                title=f"Gradients of {self.label}",
            ),
            asked,
        )
        return {requests[i].key: norm for i, norm in zip(asked, norms, strict=True)}

    def _fitting(self, requests: Sequence[ScoreRequest]) -> tuple[list[Encoded], list[int]]:
        """Every text as tokens, and the places of those that fit into the context."""
        template, limit = self.template.without_limit(), self.context
        encoded = [_encoded(template, item) for item in requests]
        return encoded, [i for i, item in enumerate(encoded) if len(item.ids) <= limit]

    def generate(
        self, requests: Sequence[GenerationRequest], scores: Mapping[Key, TokenScores] | None = None
    ) -> dict[Key, str]:
        """The answer to each request; a prompt that leaves no room in the context has none and is left out.

        Args:
            requests: What to answer.
            scores: What `score` said, in detail, of the drafts under the same keys: greedy answers that begin like
                their draft are generated from where they leave it.
        """
        answers: dict[Key, str] = {}
        for temperature in sorted({item.temperature for item in requests}):
            part = [item for item in requests if item.temperature == temperature]
            for item, ids in zip(part, self._generated(part, temperature, scores or {}), strict=True):
                if ids is not None:
                    answers[item.key] = self._text(item, ids)
        return answers

    def _text(self, item: GenerationRequest, ids: Sequence[int]) -> str:
        """An answer without outer spaces; the continuation of plain text as it stands."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if item.raw else self.template.decode(ids)

    def _generated(
        self, requests: Sequence[GenerationRequest], temperature: float, scores: Mapping[Key, TokenScores]
    ) -> list[list[int] | None]:
        prompts = [_prompt_ids(self.template, item) for item in requests]

        def run(places: list[int]) -> list[list[int] | None]:
            if self.engine is not None:
                return self.engine.generate(
                    [prompts[i] for i in places],
                    max_new_tokens=[requests[i].max_new_tokens for i in places],
                    eos_ids=end_ids(causal_lm(self.model), self.tokenizer),
                    temperature=temperature,
                    seeds=[requests[i].seed for i in places],
                )
            return map_over_ranks(
                lambda part: generate_from(
                    causal_lm(self.model),
                    [prompts[i] for i in part],
                    [[] if temperature else self._start(requests[i], prompts[i], scores) for i in part],
                    max_new_tokens=[requests[i].max_new_tokens for i in part],
                    eos_ids=end_ids(causal_lm(self.model), self.tokenizer),
                    pad_id=pad_id_of(self.tokenizer),
                    batch_tokens=2 * self.batch_tokens,
                    title=f"Generating {self.label}",
                    temperature=temperature,
                    seeds=[requests[i].seed for i in part] if temperature else (),
                ),
                places,
            )

        keys = [
            ProbeCache.key(prompt, item.max_new_tokens, temperature, item.seed if temperature else 0)
            for prompt, item in zip(prompts, requests, strict=True)
        ]
        return self.cache.generations(keys, run)

    def _start(self, item: GenerationRequest, prompt: Sequence[int], scores: Mapping[Key, TokenScores]) -> list[int]:
        """First tokens of the draft, as long as each is the likeliest one."""
        scored = scores.get(item.key) if item.draft else None
        if scored is None or scored.top1 is None:
            return []
        draft = self.template.without_limit().encode(item.question, item.draft)
        if list(draft.ids[: draft.answer_start]) != list(prompt) or draft.ids[draft.answer_start :] != draft.targets:
            return []
        wrong = np.flatnonzero(~scored.top1)
        return list(draft.targets[: wrong[0] if len(wrong) else len(draft.targets)])


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
    extra = getattr(model.generation_config, "eos_token_id", None)
    return sorted({tokenizer.eos_token_id, *(extra if isinstance(extra, list) else [extra] if extra else [])})


def _encoded(template: Template, item: ScoreRequest) -> Encoded:
    row = f"{item.set}/{item.index} {item.what}"
    if item.raw:
        return template.encode_raw(item.question, item.answer, row)
    return template.encode(item.question, item.answer, row)


def _prompt_ids(template: Template, item: GenerationRequest) -> list[int]:
    if item.raw:
        return template.raw_ids(item.question)
    return template.prompt_ids(item.question, item.turns, item.prefix)
