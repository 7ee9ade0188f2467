"""Membership of the forget set against holdout rows, from per-sample rows; the same for every benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import Plan, SampleRow
from expunge.benchmarks.shared.rows import in_set
from expunge.metrics.membership import membership_reference
from expunge.metrics.privleak import privleak_value
from expunge.metrics.separation import Scored, separation_values
from expunge.records import Value

if TYPE_CHECKING:
    from expunge.probes.session import Session

Floats = NDArray[np.float64]

COMPARED = ("forget", "holdout")
"""Forget rows against rows that no model was trained on."""

_COLUMNS = {"loss": "nll", "zlib": "zlib", "min_k": "min_k", "min_k_plus": "min_k_plus"}
"""Membership score -> the column that holds it."""

_PARTS = ("auc", "tpr_at_1_fpr")
_NEEDS_ROWS = "forget rows"
_NEEDS_LOSSES = "losses of a model that never saw these rows: model.retain_model=..."


@dataclass(frozen=True)
class Membership:
    """How well membership scores tell forget rows from holdout rows."""

    rows: Sequence[SampleRow]
    retain_model: Sequence[SampleRow] | None
    """The retain model's record of each forget and holdout row, in the order of the rows."""
    min_k: float
    gradient_norm: bool
    """Whether gradient norms were measured."""
    resamples: int
    seed: int

    def of(self, score: str) -> dict[str, Value]:
        """'auc' and 'tpr_at_1_fpr' of one membership score."""
        if score == "reference":
            if self.retain_model is None:
                return {name: Value.missing(_NEEDS_LOSSES) for name in _PARTS}
            forget, holdout = (self._beyond_reference(name) for name in COMPARED)
        else:
            column = _COLUMNS.get(score, score)
            forget, holdout = (_scored(self.rows, name, column) for name in COMPARED)
        if forget is None:
            return {name: Value.missing(_NEEDS_ROWS) for name in _PARTS}
        return separation_values(forget, holdout, self._called(score), self.resamples, self.seed)

    def all(self) -> dict[str, Value]:
        """AUC and TPR of every membership score."""
        scores = (*_COLUMNS, "reference", *(["gradient_norm"] if self.gradient_norm else []))
        return {f"membership/{score}_{part}": value for score in scores for part, value in self.of(score).items()}

    def privleak(self) -> Value:
        """PrivLeak of the Min-K% score."""
        forget, holdout = (_scored(self.rows, name, "min_k") for name in COMPARED)
        if forget is None:
            return Value.missing(_NEEDS_ROWS)
        retain_model = None
        if holdout is not None and self.retain_model is not None:
            sides = [_scored(self.retain_model, name, "min_k") for name in COMPARED]
            assert sides[0] is not None
            assert sides[1] is not None
            retain_model = sides[0], sides[1]
        return privleak_value(forget, holdout, retain_model, self.resamples, self.seed, self._called("min_k"))

    def _beyond_reference(self, name: str) -> Scored | None:
        assert self.retain_model is not None
        own, others = in_set(self.rows, name), in_set(self.retain_model, name)
        # Infinite under both models: no difference, so no score.
        with np.errstate(invalid="ignore"):
            scores = membership_reference(column_of(own, "nll"), column_of(others, "nll"))
        return Scored(scores, [row["group"] for row in own]) if own else None

    def _called(self, score: str) -> str:
        share = f"{100 * self.min_k:g}%"
        names = {"loss": "LOSS", "min_k": f"Min-{share}", "min_k_plus": f"Min-{share}++"}
        return names.get(score, score.replace("_", " "))


def add_gradient_norms(rows: Sequence[SampleRow], session: Session, plan: Plan) -> None:
    """Fill the column `gradient_norm` of forget and holdout rows; one backward pass per row."""
    asked = [item for item in plan.score if item.what == "answer" and item.set in COMPARED]
    found = session.gradient_norms(asked)
    for row in rows:
        row["gradient_norm"] = found.get((row["set"], row["index"], "answer"))


def column_of(rows: Sequence[SampleRow], name: str) -> Floats:
    """One number per row; NaN where a row has none."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)


def _scored(rows: Sequence[SampleRow], name: str, column: str) -> Scored | None:
    own = in_set(rows, name)
    return Scored(column_of(own, column), [row["group"] for row in own]) if own else None
