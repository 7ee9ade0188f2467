"""Soft prompt: learn vectors that, in front of any question, bring the answers back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from expunge.audits.base import BEFORE, Attempt, Audit, Cost, SampleRow, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.folds import fitted_and_tested
from expunge.audits.shared.outcomes import forget_rows, measure_rows, questions
from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.sets import Row, Sets
from expunge.data.templates import Encoded, Template
from expunge.errors import DataError, NumericalError
from expunge.metrics.probability import probability
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode, head_of, override_forward, vocab_size
from expunge.modeling.load import pad_id_of
from expunge.modeling.logprobs import token_logp
from expunge.probes.scoring import score

_INITIAL = "!"
"""Text whose first token's embedding all vectors start from."""
_RANDOM_MEASURE = "probability of random strings"


class SoftPrompt(Audit):
    """Learns vectors in the place of token embeddings on some people's answers, and tests them on other people.

    min_P -(1/N) sum log p(a | P, q) over the answer tokens of people T, with the model's weights frozen; Adam with a
    constant learning rate. The same vectors P are used for all questions, so they cannot contain the answers about the
    tested people V; then T and V are swapped. The vectors are inserted where the template's own text before the
    question ends (after the start token, and after words such as 'Question:'), and all start from the embedding of
    '!'.

    Control: the same attack on random strings in the place of the answers of T, scored on those same strings (listed,
    not counted). A high value means that so many vectors can make the model say anything they were fitted on. The
    facts `fitted` and `fitted_random` compare the mean probabilities on T of true answers and of random strings.
    """

    paper: ClassVar[str] = "Schwinn et al. 2024, arXiv:2402.09063, section 4; control after arXiv:2502.15836"

    vectors: int = Field(default=20, ge=1)
    """Number of vectors."""
    steps: int = Field(default=300, ge=1)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of Adam."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per step."""
    random_strings: bool = True
    """Whether the control with random strings runs."""
    limit: int | None = Field(default=None, ge=2)
    """At most so many rows, spread over the forget set; null for all."""
    seed: int = 0
    """Seed of the batches and of the random strings."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the model as it is, the attack, and the control.

        Raises:
            DataError: The forget set has no questions, or rows of one person only.
        """
        fitted_and_tested(self._rows(sets))
        return [BEFORE, "universal", *(["random strings"] if self.random_strings else [])]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: forward and backward passes of both folds, and two scorings."""
        share = len(self._rows(sets)) / len(forget_rows(sets))
        trainings = 2 * (1 + self.random_strings)
        return Workload(passes=share * 3 + trainings * 3 * self.steps * self.batch_size / len(forget_rows(sets)))

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Measure the model as it is, or after the vectors of the attack or of the control."""
        rows = self._rows(arm.sets)
        if stage == BEFORE:
            return [Attempt(stage, measure_rows(arm.session(), rows, "probability"), cost=Cost(passes=1))]
        session, model = arm.session(), causal_lm(arm.model)
        start = question_start(arm.template, rows)
        encode = arm.template.without_limit().encode
        encoded = [with_vectors(encode(row.question, row.answer, row.id), model, start, self.vectors) for row in rows]
        if stage == "random strings":
            encoded = self._with_random_answers(encoded, arm)
        fits = [len(item.ids) <= session.context for item in encoded]
        after: list[float | None] = [None] * len(rows)
        fitted_means = []
        for number, indices in enumerate(fitted_and_tested(rows)):
            fitted, tested = ([i for i in part if fits[i]] for part in indices)
            if not fitted:
                raise DataError(f"no question fits into the context of {session.context} tokens with the vectors.")
            prompt = self._fit(arm, [encoded[i] for i in fitted], seed=self.seed + number)
            known = answer_probabilities(arm, [encoded[i] for i in fitted], prompt)
            fitted_means.append(float(np.mean(known)))
            if stage == "random strings":
                scored = dict(zip(fitted, known, strict=True))
            else:
                scored = dict(zip(tested, answer_probabilities(arm, [encoded[i] for i in tested], prompt), strict=True))
            for index, value in scored.items():
                after[index] = value
        return [self._attempt(stage, rows, after, float(np.mean(fitted_means)))]

    def _attempt(self, stage: str, rows: Sequence[Row], after: Sequence[float | None], fitted: float) -> Attempt:
        columns: list[SampleRow] = [
            {"id": row.id, "group": row.group or row.id, "question": row.question, "answer": row.answer, "score": value}
            for row, value in zip(rows, after, strict=True)
        ]
        size = min(self.batch_size, len(rows))
        cost = Cost(rows=len(rows), steps=2 * self.steps, passes=2 * 3 * self.steps * size / len(rows) + 2)
        if stage == "random strings":
            reason = "control: the vectors are fitted on random strings, and scored on the same strings"
            return Attempt(stage, columns, _RANDOM_MEASURE, cost, not_counted=reason, facts={"fitted_random": fitted})
        return Attempt(stage, columns, cost=cost, facts={"fitted": fitted})

    def _rows(self, sets: Sets) -> tuple[Row, ...]:
        return questions(sets, self.key, self.limit)

    def _with_random_answers(self, encoded: Sequence[Encoded], arm: Arm) -> list[Encoded]:
        """Replace every answer token but the last, which ends the answer, by a random ordinary token."""
        special = set(arm.template.tokenizer.all_special_ids)
        ordinary = [
            i for i in range(min(len(arm.template.tokenizer), vocab_size(causal_lm(arm.model)))) if i not in special
        ]
        random = np.random.default_rng(self.seed)
        results = []
        for item in encoded:
            size = len(item.ids) - item.answer_start - 1
            answer = tuple(int(i) for i in random.choice(ordinary, size))
            results.append(replace(item, ids=(*item.ids[: item.answer_start], *answer, item.ids[-1])))
        return results

    def _fit(self, arm: Arm, rows: Sequence[Encoded], seed: int) -> Tensor:
        """Return the vectors, (vectors, D) in float32, that make the rows' answers most probable."""
        model, pad_id = causal_lm(arm.model), pad_id_of(arm.template.tokenizer)
        first = arm.template.text_ids(_INITIAL)[:1]
        with torch.no_grad():
            initial = model.get_input_embeddings()(torch.tensor(first, device=model.device))
        prompt = initial.float().repeat(self.vectors, 1).requires_grad_(True)
        optimizer = torch.optim.Adam([prompt], lr=self.lr)
        order = np.random.default_rng(seed)
        size = min(self.batch_size, len(rows))
        with progress(f"Fitting vectors to {arm.label}", self.steps, "steps") as advance:
            for step in range(self.steps):
                chosen = [rows[i] for i in order.choice(len(rows), size, replace=False)]
                batch = TensorBatch.of(collate(chosen, pad_id), model.device)
                with insert(model, prompt):
                    hidden = decode(model, batch)[batch.rows, batch.positions]
                loss = -token_logp(head_of(model), hidden, batch.labels, vocab_size(model)).mean()
                if not math.isfinite(float(loss.detach())):
                    raise NumericalError(
                        f"soft_prompt: the loss of step {step + 1} on {arm.label} is not finite.", fix="Lower lr."
                    )
                # Of the vectors alone: the weights get no gradients.
                (prompt.grad,) = torch.autograd.grad(loss, [prompt])
                optimizer.step()
                advance(1)
        vectors: Tensor = prompt.detach()
        return vectors


@dataclass(frozen=True)
class _Lookup:
    """Embeddings with additional ids: V + k is vector k of a soft prompt, with V the size of the vocabulary."""

    original: Any
    prompt: Tensor
    vocabulary: int

    def __call__(self, ids: Tensor) -> Tensor:
        is_vector = ids >= self.vocabulary
        embedded: Tensor = self.original(torch.where(is_vector, torch.zeros_like(ids), ids))
        vectors = self.prompt.to(embedded.dtype)[(ids - self.vocabulary).clamp(min=0)]
        return torch.where(is_vector[..., None], vectors, embedded)


@contextlib.contextmanager
def insert(model: Any, prompt: Tensor) -> Iterator[None]:
    """Make the ids V, V + 1, ... stand for the vectors of a soft prompt, (vectors, D), in all forward passes."""
    embedding: nn.Module = model.get_input_embeddings()
    with override_forward(embedding, _Lookup(embedding.forward, prompt, vocab_size(model))):
        yield


def with_vectors(item: Encoded, model: Any, start: int, num: int) -> Encoded:
    """Return a row with the ids of `num` vectors at position `start`, for `insert`."""
    ids = range(vocab_size(model), vocab_size(model) + num)
    return replace(item, ids=(*item.ids[:start], *ids, *item.ids[start:]), answer_start=item.answer_start + num)


def question_start(template: Template, rows: Sequence[Row]) -> int:
    """Return the position up to which the prompts of all questions are equal: the template's text before the question.

    Two further questions without a common first character are compared too, in case that all rows begin alike.
    """
    prompts = [template.prompt_ids(question) for question in ("A", "?", *(row.question for row in rows))]
    return next((i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), min(map(len, prompts)))


def answer_probabilities(arm: Arm, rows: Sequence[Encoded], prompt: Tensor) -> list[float]:
    """Return the probability per token of each row's answer after the soft prompt, P(a | P, q)^(1/|a|)."""
    session = arm.session()
    with insert(causal_lm(arm.model), prompt):
        scores = score(
            causal_lm(arm.model),
            rows,
            pad_id=pad_id_of(arm.template.tokenizer),
            batch_tokens=session.batch_tokens,
            title=f"Scoring {arm.label}",
        )
    return [float(probability([-float(scored.logp.mean())])[0]) for scored in scores]
