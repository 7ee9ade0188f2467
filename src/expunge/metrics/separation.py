"""How well a membership score tells the forget set from text that was never trained on.

Scores are high for text that looks new (see `expunge.metrics.membership`). Forget rows are the members to be found,
holdout rows are not: AUC 1 means that every forget row looks better known than every holdout row, as before
unlearning; about 1/2 is what a model that never saw the forget set gives if both sets are alike; below 1/2 the forget
set looks less known than new text, which gives away that something was removed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import Better, Metric, metric
from expunge.metrics.intervals import cluster_bootstrap
from expunge.records import Value

Floats = NDArray[np.float64]
Resampled = Callable[[Floats, Floats, Floats, Floats], Floats]

NEEDS_HOLDOUT = "a holdout set, rows like those to forget that no model was trained on: data.holdout=..."


@dataclass(frozen=True)
class Scored:
    """Membership scores of one set; NaN marks a row that could not be scored."""

    scores: Floats
    groups: Sequence[Hashable]
    """Group of each row; intervals draw whole groups."""

    def present(self) -> Scored:
        """Without the missing rows."""
        kept = ~np.isnan(self.scores)
        return Scored(self.scores[kept], [group for group, keep in zip(self.groups, kept, strict=True) if keep])


@metric(better="retain", range=(0.0, 1.0))
def membership_auc(forget: ArrayLike, holdout: ArrayLike) -> float:
    """Chance that a forget row looks better known than a holdout row: area under the ROC curve.

    Formula: P(s_forget < s_holdout) + P(s_forget = s_holdout) / 2. This is the AUC of OpenUnlearning, which labels
    forget rows 0 and holdout rows 1. MUSE prints 1 minus it.

    Args:
        forget: Scores of forget rows, shape (n,).
        holdout: Scores of holdout rows, shape (m,).

    Returns:
        One number.

    Raises:
        ValueError: A side is empty or holds NaN.

    References:
        Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    return _once(resampled_auc, forget, holdout)


@metric(better="lower", range=(0.0, 1.0))
def membership_tpr(forget: ArrayLike, holdout: ArrayLike, fpr: float = 0.01) -> float:
    """Share of forget rows that an attacker finds while wrongly accusing few holdout rows: TPR at 1% FPR.

    Formula: max over thresholds t of P(s_forget <= t), subject to P(s_holdout <= t) <= fpr. With fewer than 1/fpr
    holdout rows not a single one may be accused.

    Args:
        forget: Scores of forget rows, shape (n,).
        holdout: Scores of holdout rows, shape (m,).
        fpr: Share of holdout rows that may be accused, from 0 to below 1.

    Returns:
        One number; 0 where no threshold accuses so few.

    Raises:
        ValueError: A side is empty or holds NaN, or fpr is not such a share.

    References:
        Carlini et al. 2022, arXiv:2112.03570, section III (true positives at low false-positive rates).
    """
    return _once(functools.partial(resampled_tpr, fpr=fpr), forget, holdout)


def resampled_auc(forget: Floats, holdout: Floats, forget_weights: Floats, holdout_weights: Floats) -> Floats:
    """AUC of many resamples at once.

    Args:
        forget: Shape (n,).
        holdout: Shape (m,).
        forget_weights: How often each resample holds each forget row, shape (b, n).
        holdout_weights: The same for holdout rows, shape (b, m).

    Returns:
        Shape (b,).
    """
    found, accused = _by_level(forget, holdout, forget_weights, holdout_weights)
    # A holdout row beats the forget rows on all levels below its own, and half of those on it.
    beaten = np.cumsum(found, axis=1) - found / 2
    pairs = found.sum(axis=1) * accused.sum(axis=1)
    return np.asarray((accused * beaten).sum(axis=1) / pairs, dtype=np.float64)


def resampled_tpr(
    forget: Floats, holdout: Floats, forget_weights: Floats, holdout_weights: Floats, fpr: float = 0.01
) -> Floats:
    """TPR at a given FPR of many resamples at once; each resample has its own threshold.

    Args:
        forget: Shape (n,).
        holdout: Shape (m,).
        forget_weights: Shape (b, n).
        holdout_weights: Shape (b, m).
        fpr: Share of holdout rows that may be accused.

    Returns:
        Shape (b,).
    """
    if not 0 <= fpr < 1:
        raise ValueError(f"fpr is a share from 0 to below 1, got {fpr}")
    found, accused = (
        np.cumsum(counts, axis=1) for counts in _by_level(forget, holdout, forget_weights, holdout_weights)
    )
    # Counts are whole numbers, so a hair more than fpr * m lets rounding pass and nothing else.
    allowed = accused <= fpr * accused[:, -1:] + 1e-9
    return np.asarray((found * allowed).max(axis=1) / found[:, -1], dtype=np.float64)


def separation_values(
    forget: Scored, holdout: Scored | None, score: str, resamples: int, seed: int
) -> dict[str, Value]:
    """AUC and TPR at 1% FPR with intervals; both need a holdout set.

    Args:
        forget: Scores of the forget set.
        holdout: Scores of the holdout set, or None.
        score: What the score is called, for people: 'Min-40%'.
        resamples: Bootstrap resamples for intervals, groups of both sides drawn apart; 0 for none.
        seed: Seed of the bootstrap.

    Returns:
        'auc' and 'tpr_at_1_fpr'.
    """
    if holdout is None:
        return {name: Value.missing(NEEDS_HOLDOUT) for name in ("auc", "tpr_at_1_fpr")}
    measure = Comparison(forget.present(), holdout.present(), resamples, seed)
    num_missing = len(forget.groups) + len(holdout.groups) - measure.num_rows
    if not measure.complete:
        needs = f"{score} scores of forget and of holdout rows"
        return {name: Value(point=None, n_missing=num_missing, needs=needs) for name in ("auc", "tpr_at_1_fpr")}
    auc = f"area under the ROC curve of the {score} score, forget against holdout (1: forget looks known)"
    tpr = f"share of forget rows found by the {score} score while at most 1% of holdout rows are accused"
    return {
        "auc": measure.value(resampled_auc, auc, membership_auc, num_missing),
        "tpr_at_1_fpr": measure.value(resampled_tpr, tpr, membership_tpr, num_missing),
    }


@dataclass(frozen=True)
class Comparison:
    """Two sets of scores without missing rows, and how to draw from them."""

    forget: Scored
    holdout: Scored
    resamples: int
    seed: int

    @property
    def num_rows(self) -> int:
        """Rows of both sets."""
        return len(self.forget.groups) + len(self.holdout.groups)

    @property
    def complete(self) -> bool:
        """Whether both sets have rows."""
        return bool(len(self.forget.groups) and len(self.holdout.groups))

    def value(self, resampled: Resampled, how: str, of: Metric[..., float], num_missing: int) -> Value:
        """A number from both sets with its interval."""
        first, second = self.forget.scores, self.holdout.scores
        return self.make(lambda *weights: resampled(first, second, *weights), how, of.spec.better, num_missing)

    def make(
        self, statistic: Callable[..., Floats], how: str, better: Better, num_missing: int, unit: str = ""
    ) -> Value:
        """A number from row counts of both sets, with the interval of draws of whole groups on both sides."""
        groups = [self.forget.groups, self.holdout.groups]
        point = statistic(*(np.ones((1, len(side))) for side in groups))
        interval = cluster_bootstrap(statistic, groups, self.resamples, self.seed)
        low, high = interval or (None, None)
        sizes = " and ".join(str(len(set(side))) for side in groups)
        drawn = (
            f"95% percentile interval of {self.resamples} bootstrap draws of whole groups, {sizes} groups drawn apart"
        )
        return Value(
            point=float(point[0]),
            low=low,
            high=high,
            n=self.num_rows,
            n_missing=num_missing,
            how=f"{how}; {drawn if interval else 'no interval'}",
            better=better,
            unit=unit,
        )


def _once(statistic: Resampled, forget: ArrayLike, holdout: ArrayLike) -> float:
    sides = [np.asarray(side, dtype=np.float64) for side in (forget, holdout)]
    for side, name in zip(sides, ("forget", "holdout"), strict=True):
        if side.ndim != 1 or not len(side):
            raise ValueError(f"{name} needs one score per row and at least one row, got shape {side.shape}")
        if np.isnan(side).any():
            raise ValueError(f"{name} holds NaN; leave rows without a score out")
    return float(statistic(*sides, *(np.ones((1, len(side))) for side in sides))[0])


def _by_level(
    forget: Floats, holdout: Floats, forget_weights: Floats, holdout_weights: Floats
) -> tuple[Floats, Floats]:
    """Row counts of both sets at each different score, lowest score first: two arrays of shape (b, levels)."""
    pooled = np.concatenate([forget, holdout])
    order = np.argsort(pooled, kind="stable")
    ordered = pooled[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    is_forget = order < len(forget)
    weights = np.concatenate([forget_weights, holdout_weights], axis=1)[:, order]
    found = np.add.reduceat(weights * is_forget, starts, axis=1)
    accused = np.add.reduceat(weights * ~is_forget, starts, axis=1)
    return found, accused
