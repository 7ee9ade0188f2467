"""The audit `depth`: what is left in a model's hidden states, with the target as the reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge.audits.base import BEFORE, Attempt, Audit, Cost, Workload
from expunge.audits.depth.patching import Depths, measure_depths
from expunge.audits.depth.score import unlearning_depth
from expunge.audits.depth.spans import span_batches
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.folds import group_folds
from expunge.audits.shared.outcomes import forget_rows, spread
from expunge.data.sets import Row, Sets
from expunge.modeling.load import pad_id_of

Floats = NDArray[np.float64]

_PROBABILITY = "span probability"
_DEPTH = "depth"


class Depth(Audit):
    """Measures in which layers a model still has the answers: the target reads its hidden states.

    In layer l the hidden states of a source model replace those of the target t where the target predicts the span, the
    answer tokens that the question does not give away. D_l = log p_t - log p_patched is the mean loss over the span.
    With the retain model as source it is D1_l, and shows where the knowledge is; with the measured model it is D2_l.

    UDS = sum_l D1_l clip(D2_l / D1_l, 0, 1) / sum_l D1_l, over layers with D1_l > tau: 0 for the target, 1 for the
    retain model.

    - `uds` (depth): 1 - UDS of each row, the share of the knowledge that is left; `before` is the same for the
      model's own output instead of its layers. Both are listed, not counted: clipped shares of a reference that is 0 by
      construction exceed 0 for every other model, also for one that never saw the rows.
    - `patching` (span probability): the probability of the span, P^(1 / tokens), by the target with the hidden states
      of one layer replaced, mean over the layers in which the mean D1_l exceeds tau. It is measured in the retain model
      as in all others, and so it counts. `before` is the model's own probability of the span.
    - `logit lens` (span probability): hidden states of one layer through the target's final norm and output layer;
      the layer with the largest mean is chosen on other people.
    """

    paper: ClassVar[str] = "Lee, Kim & Jo 2026, arXiv:2605.24614, equations 1-6"
    needs: ClassVar[tuple[str, ...]] = ("target", "retain")

    threshold: float = Field(default=0.05, gt=0)
    """tau: loss of log-probability per token above which a layer bears knowledge."""
    folds: int = Field(default=5, ge=2)
    """Groups of people for the choice of the layer of the logit lens."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, spread over the forget set; null for all."""

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: two patched passes per layer, one for the lens, and three models as they are."""
        share = min(1.0, (self.limit or len(forget_rows(sets))) / len(forget_rows(sets)))
        return Workload(passes=share * 4, passes_per_layer=share * 2, models=2)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Patch the model's hidden states into the target, and read them through its output layer."""
        rows = spread(forget_rows(arm.sets).rows, self.limit)
        session = arm.session()
        batches = span_batches(session.template, rows, pad_id_of(session.tokenizer), session.context)
        depths = measure_depths(arm, batches, len(rows))
        return self._attempts(rows, depths)

    def _attempts(self, rows: Sequence[Row], depths: Depths) -> list[Attempt]:
        lost, retain_lost = (depths.target[:, None] - patched for patched in (depths.patched, depths.retain_patched))
        left = 1 - unlearning_depth(retain_lost, lost, self.threshold)
        left_in_output = 1 - unlearning_depth(
            (depths.target - depths.retain_output)[:, None], (depths.target - depths.output)[:, None], self.threshold
        )
        num_layers = lost.shape[1]
        mean_retain_lost = _means(retain_lost)
        bearing = mean_retain_lost > self.threshold
        patched = np.exp(depths.patched)[:, bearing].mean(axis=1) if bearing.any() else np.full(len(rows), np.nan)
        lens, layers = self._best_layer(np.exp(depths.lens), [row.group or row.id for row in rows])
        relative = "it is 0 for the retain model by construction, so every other model has more; `patching` is the test"
        one, all_layers = Cost(passes=1), Cost(passes=float(2 * num_layers + 2))
        curves = {**_curve("loss", _means(lost)), **_curve("retain_loss", mean_retain_lost)}
        return [
            _attempt(BEFORE, _PROBABILITY, rows, np.exp(depths.output), one),
            _attempt(BEFORE, _DEPTH, rows, left_in_output, one, reason=relative),
            _attempt(
                "patching",
                _PROBABILITY,
                rows,
                patched,
                all_layers,
                facts={"layers_with_knowledge": float(bearing.sum()), **curves},
            ),
            _attempt(
                "uds",
                _DEPTH,
                rows,
                left,
                all_layers,
                facts={"rows_with_knowledge": float(np.isfinite(left).sum())},
                reason=relative,
            ),
            _attempt(
                "logit lens",
                _PROBABILITY,
                rows,
                lens,
                Cost(passes=2),
                facts=_curve("probability", _means(np.exp(depths.lens))),
                reason="" if layers else "its layer is chosen on other people, and all rows are of one",
            ),
        ]

    def _best_layer(self, probability: Floats, groups: Sequence[str]) -> tuple[Floats, list[int]]:
        """Return each row's value at the layer with the largest mean in other groups, (n,), and the layers chosen."""
        chosen = np.full(len(probability), np.nan)
        layers: list[int] = []
        for test in group_folds(groups, self.folds):
            means = _means(probability[~test])
            if np.isfinite(means).all():
                layers.append(int(np.argmax(means)))
                chosen[test] = probability[test, layers[-1]]
        return chosen, layers


def _attempt(
    name: str,
    measure: str,
    rows: Sequence[Row],
    scores: Floats,
    cost: Cost,
    *,
    facts: dict[str, float] | None = None,
    reason: str = "",
) -> Attempt:
    found = [
        {
            "id": row.id,
            "group": row.group or row.id,
            "question": row.question,
            "answer": row.answer,
            "score": float(score) if np.isfinite(score) else None,
        }
        for row, score in zip(rows, scores, strict=True)
    ]
    return Attempt(name, found, measure, cost, facts=facts or {}, not_counted=reason)


def _means(values: Floats) -> Floats:
    """Return the mean of each column over the rows that were measured; NaN without any."""
    measured = values[np.isfinite(values).all(axis=1)]
    return measured.mean(axis=0) if len(measured) else np.full(values.shape[1], np.nan)


def _curve(name: str, values: Floats) -> dict[str, float]:
    """Return one fact per layer that was measured."""
    return {f"{name}_layer_{layer}": float(value) for layer, value in enumerate(values) if np.isfinite(value)}
