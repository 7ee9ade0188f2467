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
from expunge.records import Label, Value

if TYPE_CHECKING:
    from expunge.probes.session import Session

Floats = NDArray[np.float64]

COMPARED = ("forget", "holdout")
"""Forget rows against rows that no model was trained on."""

_COLUMNS = {"loss": "nll", "zlib": "zlib", "min_k": "min_k", "min_k_plus": "min_k_plus"}
"""Membership score -> its column."""
_TITLES = {
    "loss": "LOSS",
    "zlib": "zlib",
    "min_k": "Min-K%",
    "min_k_plus": "Min-K%++",
    "reference": "loss against the retain model",
    "gradient_norm": "gradient norm",
}

_METRICS = ("auc", "tpr_at_1_fpr")
_NEEDS_ROWS = "forget rows"
_NEEDS_LOSSES = "losses of a model that never saw these rows: model.retain_model=..."

MEMBERSHIP_LABELS = {
    **{
        f"{score}_auc": Label(
            title=f"membership AUC, {title}",
            explain="chance that a forget row looks better known than a holdout row; 0.5 where they look alike",
            better="retain",
            needs_retain_model=score == "reference",
        )
        for score, title in _TITLES.items()
    },
    **{
        f"{score}_tpr_at_1_fpr": Label(
            title=f"membership TPR at 1% FPR, {title}",
            explain="share of forget rows identified while at most 1% of holdout rows are accused",
            better="lower",
            needs_retain_model=score == "reference",
        )
        for score, title in _TITLES.items()
    },
    "privleak": Label(
        title="PrivLeak",
        explain="change of the membership AUC against the retain model; 0 is right",
        unit="%",
        better="retain",
        needs_retain_model=True,
    ),
}
"""Presentation of the metrics of `Membership`, by the last part of their name."""


@dataclass(frozen=True)
class Membership:
    """How well membership scores distinguish forget rows from holdout rows."""

    rows: Sequence[SampleRow]
    retain_model: Sequence[SampleRow] | None
    """The retain model's record of each forget and holdout row, in the order of the rows."""
    min_k: float
    gradient_norm: bool
    """Whether gradient norms were measured."""
    resamples: int
    seed: int

    def of(self, score: str) -> dict[str, Value]:
        """Return 'auc' and 'tpr_at_1_fpr' of one membership score."""
        if score == "reference":
            if self.retain_model is None:
                return {name: Value.missing(_NEEDS_LOSSES) for name in _METRICS}
            forget, holdout = (self._reference_scores(name) for name in COMPARED)
        else:
            column = _COLUMNS.get(score, score)
            forget, holdout = (_scored(self.rows, name, column) for name in COMPARED)
        if forget is None:
            return {name: Value.missing(_NEEDS_ROWS) for name in _METRICS}
        return separation_values(forget, holdout, self._title(score), self.resamples, self.seed)

    def all(self) -> dict[str, Value]:
        """Return AUC and TPR of every membership score."""
        scores = (*_COLUMNS, "reference", *(["gradient_norm"] if self.gradient_norm else []))
        return {f"membership/{score}_{name}": value for score in scores for name, value in self.of(score).items()}

    def privleak(self) -> Value:
        """Return PrivLeak of the Min-K% score."""
        forget, holdout = (_scored(self.rows, name, "min_k") for name in COMPARED)
        if forget is None:
            return Value.missing(_NEEDS_ROWS)
        retain_model = None
        if holdout is not None and self.retain_model is not None:
            retain_forget, retain_holdout = (_scored(self.retain_model, name, "min_k") for name in COMPARED)
            assert retain_forget is not None
            assert retain_holdout is not None
            retain_model = retain_forget, retain_holdout
        return privleak_value(forget, holdout, retain_model, self.resamples, self.seed, self._title("min_k"))

    def _reference_scores(self, name: str) -> Scored | None:
        assert self.retain_model is not None
        ours, theirs = in_set(self.rows, name), in_set(self.retain_model, name)
        # A loss that is infinite under both models gives no difference, so the row has no score.
        with np.errstate(invalid="ignore"):
            scores = membership_reference(column_of(ours, "nll"), column_of(theirs, "nll"))
        return Scored(scores, [row["group"] for row in ours]) if ours else None

    def _title(self, score: str) -> str:
        share = f"{100 * self.min_k:g}%"
        titles = {"loss": "LOSS", "min_k": f"Min-{share}", "min_k_plus": f"Min-{share}++"}
        return titles.get(score, score.replace("_", " "))


def add_gradient_norms(rows: Sequence[SampleRow], session: Session, plan: Plan) -> None:
    """Fill the column `gradient_norm` of forget and holdout rows, at one backward pass per row."""
    requests = [request for request in plan.score if request.what == "answer" and request.set in COMPARED]
    norms = session.gradient_norms(requests)
    for row in rows:
        row["gradient_norm"] = norms.get((row["set"], row["index"], "answer"))


def column_of(rows: Sequence[SampleRow], name: str) -> Floats:
    """Return a column as an array, with NaN for None."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)


def _scored(rows: Sequence[SampleRow], name: str, column: str) -> Scored | None:
    selected = in_set(rows, name)
    return Scored(column_of(selected, column), [row["group"] for row in selected]) if selected else None
