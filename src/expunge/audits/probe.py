"""Probe: linear classifiers of hidden states, trained on retain people and tested on forget people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from expunge.audits.base import BEFORE, Attempt, Audit, Cost, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.folds import group_folds
from expunge.audits.shared.outcomes import Measure, forget_rows, measure_rows, spread
from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.sets import Row, Sets
from expunge.data.templates import Encoded
from expunge.errors import DataError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import INFERENCE_TOKENS, TensorBatch, length_batches
from expunge.modeling.hidden.trace import states_at
from expunge.modeling.load import pad_id_of
from expunge.probes.session import Session

Floats = NDArray[np.float64]

_MEASURE: Measure = "choice"
_PERMUTED = "permuted labels"


class Probe(Audit):
    """Trains a linear classifier of true and wrong answers on retain people, and applies it to forget people.

    Features are a layer's hidden states after question and answer. The classifier of layer l is fitted to differences
    between the true and the wrong answers of one question,

    w = argmin_w sum_i log(1 + exp(-w (h_true - h_wrong,i) / s)) + |w|^2 / (2 C),

    with s the standard deviation of each feature. A forget row counts if the true answer has the largest w h of all
    answers; a tie does not. Guessing succeeds in 1 / (k + 1) of rows with k wrong answers (fact `chance`).

    The probe never sees a forget person, so it cannot learn their facts. Layer and C are those with the best accuracy
    on retain people that were left out of the fit. What form and style of the answers give away, the retain and base
    models' probes find too. `before` is the same choice by the model's own probabilities.

    `permuted labels` is the control: the same with a random answer of each retain row in place of the true one. It is
    listed, not counted, and shows what a classifier of this size finds by chance.
    """

    paper: ClassVar[str] = "Lynch et al. 2024, arXiv:2402.16835; Hewitt & Liang 2019, arXiv:1909.03368 (control task)"

    pooling: Literal["last", "mean"] = "last"
    """Hidden state at the answer's last token, or mean over its tokens."""
    wrong_answers: int | None = Field(default=None, ge=1)
    """At most so many wrong answers per row; null for all."""
    strengths: list[float] = Field(default=[0.0001, 0.001, 0.01], min_length=1)
    """Values of C from which one is chosen: small values keep the weights small."""
    folds: int = Field(default=5, ge=2)
    """Groups of retain people for the choice of layer and C."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows of each of the two sets, spread over the set; null for all."""
    seed: int = 0
    """Seed of the permuted labels."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the only part.

        Raises:
            DataError: A set has no wrong answers, or the retain set is of one person.
        """
        for name, rows in (("forget", forget_rows(sets).rows), ("retain", _retain_rows(sets))):
            if not any(_usable(row) for row in rows):
                raise DataError(
                    f"the audit probe needs {name} rows with a question and wrong answers, and the {name} set of "
                    f"{sets.name} has none.",
                    fix="Add perturbed answers to the data, or leave out the audit.",
                )
        if len({row.group or row.id for row in _retain_rows(sets)}) < 2:
            raise DataError(
                "the audit probe chooses its layer on retain people that were left out of the fit, and all retain rows "
                "with wrong answers are of one.",
                fix="Add retain rows of other people, or leave out the audit.",
            )
        return [self.key]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: scores and hidden states of all answers of the forget rows, hidden states of retain's."""
        forget = forget_rows(sets)
        answers = [sum(map(self._num_answers, self._rows(rows))) for rows in (forget.rows, _retain_rows(sets))]
        return Workload(passes=(2 * answers[0] + answers[1]) / len(forget))

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Fit the probes on the model's hidden states of retain rows, and apply them to the forget rows."""
        session = arm.session()
        train_rows, test_rows = self._rows(_retain_rows(arm.sets)), self._rows(forget_rows(arm.sets).rows)
        train, test = (self._features(session, rows) for rows in (train_rows, test_rows))
        if len({item.group for item in train}) < 2:
            raise DataError(
                f"the audit probe has hidden states of {len(train)} retain rows within the context of {arm.label}, all "
                "of one person at most, and chooses its layer on other people.",
                fix="Raise limit, or leave out the audit.",
            )
        probe = _choose(train, self.strengths, self.folds)
        generator = np.random.default_rng(self.seed)
        control = _choose(_permuted(train, generator), self.strengths, self.folds)
        own_choice = measure_rows(session, test_rows, _MEASURE)
        before = Attempt(BEFORE, own_choice, _MEASURE, Cost(passes=self._passes(test_rows)))
        cost = Cost(rows=len(train), passes=self._passes(train_rows) + self._passes(test_rows))
        return [
            before,
            self._attempt("probe", probe, test_rows, test, cost),
            replace(
                self._attempt(_PERMUTED, control, test_rows, test, cost),
                not_counted="it is a control, fitted to random labels",
            ),
        ]

    def _attempt(
        self, name: str, probe: _Fitted, rows: Sequence[Row], features: Sequence[_Features], cost: Cost
    ) -> Attempt:
        hits = {item.index: probe.ranks_first(item) for item in features}
        found = [
            {
                "id": row.id,
                "group": row.group or row.id,
                "question": row.question,
                "answer": row.answer,
                "score": None if index not in hits else float(hits[index]),
            }
            for index, row in enumerate(rows)
        ]
        facts = {
            "layer": float(probe.layer),
            "C": probe.strength,
            "accuracy_on_retain_people": probe.accuracy,
        }
        if hits:
            facts["chance"] = float(np.mean([1 / item.num_answers for item in features]))
            facts["accuracy"] = float(np.mean(list(hits.values())))
        return Attempt(name, found, _MEASURE, cost, facts=facts)

    def _rows(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        chosen = spread(rows, self.limit)
        return tuple(replace(row, perturbed_answers=row.perturbed_answers[: self.wrong_answers]) for row in chosen)

    def _num_answers(self, row: Row) -> int:
        return len(row.perturbed_answers) + 1 if _usable(row) else 0

    def _passes(self, rows: Sequence[Row]) -> float:
        return sum(map(self._num_answers, rows)) / max(len(rows), 1)

    def _features(self, session: Session, rows: Sequence[Row]) -> list[_Features]:
        """Return the hidden states of all answers; rows without wrong answers or beyond the context are left out."""
        template = session.template.without_limit()
        encoded: dict[int, list[Encoded]] = {}
        for index, row in enumerate(rows):
            answers = [template.encode(row.question, text, row.id) for text in (row.answer, *row.perturbed_answers)]
            if _usable(row) and all(len(item.ids) <= session.context for item in answers):
                encoded[index] = answers
        items = [item for answers in encoded.values() for item in answers]
        states = _hidden_states(session, items, self.pooling)
        ends = np.cumsum([len(answers) for answers in encoded.values()])
        return [
            _Features(index, rows[index].group or rows[index].id, states[:, end - len(answers) : end])
            for (index, answers), end in zip(encoded.items(), ends, strict=True)
        ]


@dataclass(frozen=True)
class _Features:
    """Hidden states of the answers of one row."""

    index: int
    group: str
    states: NDArray[np.float32]
    """(layers, k + 1, D); the true answer is first."""

    @property
    def num_answers(self) -> int:
        """Number of answers, k + 1."""
        return int(self.states.shape[1])


@dataclass(frozen=True)
class _Fitted:
    """The probe of one layer."""

    layer: int
    strength: float
    accuracy: float
    """Accuracy on people that were left out of the fit."""
    weights: Floats
    """(D,) w / s."""

    def ranks_first(self, item: _Features) -> bool:
        """Return whether the true answer has the largest value of all answers."""
        values = item.states[self.layer] @ self.weights
        return bool(values[0] > values[1:].max())


def _choose(rows: Sequence[_Features], strengths: Sequence[float], num_folds: int) -> _Fitted:
    """Fit the probe with the layer and C of the best accuracy on left-out people; ties go to the first."""
    groups = [row.group for row in rows]
    folds = group_folds(groups, num_folds)
    candidates = []
    with progress("Fitting probes", rows[0].states.shape[0] * len(strengths), "probes") as advance:
        for layer in range(rows[0].states.shape[0]):
            for strength in strengths:
                hits = 0
                for test in folds:
                    weights = _fit([row for row, out in zip(rows, test, strict=True) if not out], layer, strength)
                    probe = _Fitted(layer, strength, 0.0, weights)
                    hits += sum(probe.ranks_first(row) for row, out in zip(rows, test, strict=True) if out)
                candidates.append((hits / len(rows), layer, strength))
                advance(1)
    accuracy, layer, strength = max(candidates, key=lambda candidate: candidate[0])
    return _Fitted(layer, strength, accuracy, _fit(rows, layer, strength))


def _fit(rows: Sequence[_Features], layer: int, strength: float) -> Floats:
    """Fit the weights of one layer to the differences between true and wrong answers.

    With both classes of equal size and no intercept, a classifier of d against -d has the loss of d alone.
    """
    from sklearn.linear_model import LogisticRegression

    states = [row.states[layer].astype(np.float64) for row in rows]
    scale = np.concatenate(states).std(axis=0)
    scale[scale == 0] = 1.0
    differences = np.concatenate([(values[0] - values[1:]) / scale for values in states])
    signs = np.where(np.arange(len(differences)) % 2, -1, 1)
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000)
    model.fit(differences * signs[:, None], signs)
    weights: Floats = model.coef_[0] / scale
    return weights


def _permuted(rows: Sequence[_Features], generator: np.random.Generator) -> list[_Features]:
    """Return the rows with a random answer in the place of the true one."""
    return [replace(row, states=row.states[:, generator.permutation(row.num_answers)]) for row in rows]


@torch.no_grad()
def _hidden_states(session: Session, items: Sequence[Encoded], pooling: str) -> NDArray[np.float32]:
    """Return (layers, texts, D) hidden states at the last token of each answer, or their mean over its tokens."""
    model: Any = causal_lm(session.model)
    results: dict[int, NDArray[np.float32]] = {}
    with progress(f"Hidden states of {session.label}", len(items), "texts") as advance:
        for batch in length_batches(items, INFERENCE_TOKENS):
            tensors = TensorBatch.of(collate([items[i] for i in batch], pad_id_of(session.tokenizer)), model.device)
            # The last token is the end token, which every answer has alike.
            ends = [len(items[i].ids) - 1 for i in batch]
            firsts = [min(items[i].answer_start, end - 1) for i, end in zip(batch, ends, strict=True)]
            starts = firsts if pooling == "mean" else [end - 1 for end in ends]
            lengths = [end - start for start, end in zip(starts, ends, strict=True)]
            rows = torch.arange(len(batch)).repeat_interleave(torch.tensor(lengths)).to(model.device)
            positions = torch.cat([torch.arange(*pair) for pair in zip(starts, ends, strict=True)]).to(model.device)
            states = states_at(model, tensors, rows, positions).layers.float()
            sums = states.new_zeros((len(states), len(batch), states.shape[-1])).index_add_(1, rows, states)
            means = (sums / torch.tensor(lengths, device=sums.device)[:, None]).cpu().numpy()
            results.update({index: means[:, place] for place, index in enumerate(batch)})
            advance(len(batch))
    return np.stack([results[index] for index in range(len(items))], axis=1)


def _retain_rows(sets: Sets) -> tuple[Row, ...]:
    """Return the retain rows that have wrong answers."""
    rows = sets.evaluation.get("retain", sets.retain)
    return () if rows is None else tuple(row for row in rows if _usable(row))


def _usable(row: Row) -> bool:
    return bool(row.question and row.perturbed_answers)
