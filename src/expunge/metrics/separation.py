"""Separation of the forget set from a holdout set by a membership score: AUC, and TPR at a low FPR.

Scores are high for text that looks new (see `expunge.metrics.membership`). Forget rows are the members to be detected,
holdout rows are the non-members. An AUC of 1 means that every forget row looks more familiar than every holdout row, as
before unlearning. An AUC of about 1/2 is expected of a model that never saw the forget set if both sets are alike.
Below 1/2 the forget set looks less familiar than new text, which reveals that something was removed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import MetricSpec, metric
from expunge.metrics.bootstrap import cluster_bootstrap
from expunge.records import Value

Floats = NDArray[np.float64]
ResampledStatistic = Callable[[Floats, Floats, Floats, Floats], Floats]

NEEDS_HOLDOUT = "a holdout set of rows similar to the forget set that no model was trained on; set data.holdout=..."
MIN_HOLDOUT_ROWS = 100
"""Fewest holdout rows from which a false-positive rate of 1% can be read: one row."""


@dataclass(frozen=True)
class Scored:
    """Membership scores of one set; NaN for a row that could not be scored."""

    scores: Floats
    groups: Sequence[Hashable]
    """Group of each row; intervals resample groups."""

    def drop_missing(self) -> Scored:
        """Return the rows that have a score."""
        mask = ~np.isnan(self.scores)
        return Scored(
            self.scores[mask], [group for group, is_present in zip(self.groups, mask, strict=True) if is_present]
        )


@metric(better="retain", range=(0.0, 1.0))
def membership_auc(forget: ArrayLike, holdout: ArrayLike) -> float:
    """Compute the area under the ROC curve: the probability that a forget row looks more familiar than a holdout row.

    Formula: P(s_forget < s_holdout) + P(s_forget = s_holdout) / 2. This is the AUC of OpenUnlearning, which labels
    forget rows 0 and holdout rows 1. MUSE reports 1 minus it.

    Args:
        forget: Scores of forget rows, shape (n,).
        holdout: Scores of holdout rows, shape (m,).

    Returns:
        One number.

    Raises:
        ValueError: A set is empty or contains NaN.

    References:
        Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    return _on_all_rows(resampled_auc, forget, holdout)


@metric(better="lower", range=(0.0, 1.0))
def membership_tpr(forget: ArrayLike, holdout: ArrayLike, fpr: float = 0.01) -> float:
    """Compute the share of forget rows detected at a low rate of false positives among holdout rows (TPR at 1% FPR).

    Formula: max over thresholds t of P(s_forget <= t), subject to P(s_holdout <= t) <= fpr. With fewer than 1/fpr
    holdout rows no false positive is allowed.

    Args:
        forget: Scores of forget rows, shape (n,).
        holdout: Scores of holdout rows, shape (m,).
        fpr: Maximum share of false positives among holdout rows, at least 0 and below 1.

    Returns:
        One number; 0 if no threshold meets this limit.

    Raises:
        ValueError: A set is empty or contains NaN, or fpr is out of range.

    References:
        Carlini et al. 2022, arXiv:2112.03570, section III (true positives at low false-positive rates).
    """
    return _on_all_rows(functools.partial(resampled_tpr, fpr=fpr), forget, holdout)


def resampled_auc(forget: Floats, holdout: Floats, forget_weights: Floats, holdout_weights: Floats) -> Floats:
    """Compute the AUC of many resamples at once.

    Args:
        forget: Shape (n,).
        holdout: Shape (m,).
        forget_weights: Count of each forget row in each resample, shape (b, n).
        holdout_weights: Count of each holdout row in each resample, shape (b, m).

    Returns:
        Shape (b,).
    """
    forget_counts, holdout_counts = _counts_by_score(forget, holdout, forget_weights, holdout_weights)
    # A holdout row counts all forget rows with a lower score, and half of those with an equal score.
    lower_forget = np.cumsum(forget_counts, axis=1) - forget_counts / 2
    num_pairs = forget_counts.sum(axis=1) * holdout_counts.sum(axis=1)
    return np.asarray((holdout_counts * lower_forget).sum(axis=1) / num_pairs, dtype=np.float64)


def resampled_tpr(
    forget: Floats, holdout: Floats, forget_weights: Floats, holdout_weights: Floats, fpr: float = 0.01
) -> Floats:
    """Compute the TPR at a given FPR of many resamples at once, each with its own threshold.

    Args:
        forget: Shape (n,).
        holdout: Shape (m,).
        forget_weights: Shape (b, n).
        holdout_weights: Shape (b, m).
        fpr: Maximum share of false positives among holdout rows.

    Returns:
        Shape (b,).
    """
    if not 0 <= fpr < 1:
        raise ValueError(f"fpr must be at least 0 and below 1, got {fpr}")
    true_positives, false_positives = (
        np.cumsum(counts, axis=1) for counts in _counts_by_score(forget, holdout, forget_weights, holdout_weights)
    )
    # Counts are integers, so the small tolerance only absorbs the rounding of fpr * m.
    allowed = false_positives <= fpr * false_positives[:, -1:] + 1e-9
    return np.asarray((true_positives * allowed).max(axis=1) / true_positives[:, -1], dtype=np.float64)


def separation_values(
    forget: Scored, holdout: Scored | None, score: str, resamples: int, seed: int
) -> dict[str, Value]:
    """Compute AUC and TPR at 1% FPR with intervals, or state that a holdout set is missing.

    Args:
        forget: Scores of the forget set.
        holdout: Scores of the holdout set, or None.
        score: Display name of the score, such as 'Min-40%'.
        resamples: Bootstrap resamples for intervals, independent for the two sets; 0 for none.
        seed: Seed of the bootstrap.

    Returns:
        'auc' and 'tpr_at_1_fpr'; the latter is missing with fewer than 100 holdout rows.
    """
    if holdout is None:
        return {name: Value.missing(NEEDS_HOLDOUT) for name in ("auc", "tpr_at_1_fpr")}
    bootstrap = TwoSetBootstrap(forget.drop_missing(), holdout.drop_missing(), resamples, seed)
    num_missing = len(forget.groups) + len(holdout.groups) - bootstrap.num_rows
    if not bootstrap.is_complete:
        needs = f"{score} scores of forget and of holdout rows"
        return {name: Value(point=None, n_missing=num_missing, needs=needs) for name in ("auc", "tpr_at_1_fpr")}
    auc = functools.partial(resampled_auc, bootstrap.forget.scores, bootstrap.holdout.scores)
    tpr = functools.partial(resampled_tpr, bootstrap.forget.scores, bootstrap.holdout.scores)
    how_auc = f"area under the ROC curve of the {score} score, forget against holdout (1: forget looks familiar)"
    how_tpr = f"share of forget rows detected by the {score} score with at most 1% of holdout rows as false positives"
    values = {"auc": bootstrap.value(auc, how_auc, membership_auc.spec, num_missing)}
    num_holdout = len(bootstrap.holdout.groups)
    if num_holdout < MIN_HOLDOUT_ROWS:
        needs = f"at least {MIN_HOLDOUT_ROWS} holdout rows; with {num_holdout}, 1% of them is less than one row"
        values["tpr_at_1_fpr"] = Value(point=None, n=bootstrap.num_rows, n_missing=num_missing, needs=needs)
    else:
        values["tpr_at_1_fpr"] = bootstrap.value(tpr, how_tpr, membership_tpr.spec, num_missing)
    return values


@dataclass(frozen=True)
class TwoSetBootstrap:
    """Bootstrap over the groups of a forget and a holdout set, from which rows without a score were removed."""

    forget: Scored
    holdout: Scored
    resamples: int
    seed: int

    @property
    def num_rows(self) -> int:
        """Number of rows of both sets."""
        return len(self.forget.groups) + len(self.holdout.groups)

    @property
    def is_complete(self) -> bool:
        """Whether both sets have rows."""
        return bool(len(self.forget.groups) and len(self.holdout.groups))

    def value(self, statistic: Callable[..., Floats], how: str, spec: MetricSpec, num_missing: int) -> Value:
        """Compute a statistic of the row counts of both sets, with its interval."""
        groups = [self.forget.groups, self.holdout.groups]
        point = statistic(*(np.ones((1, len(set_groups))) for set_groups in groups))
        value = Value(
            point=float(point[0]),
            n=self.num_rows,
            n_missing=num_missing,
            how=how,
            better=spec.better,
            unit=spec.unit,
        )
        return cluster_bootstrap(statistic, groups, self.resamples, self.seed, bounds=spec.range).attach(value)


def _on_all_rows(statistic: ResampledStatistic, forget: ArrayLike, holdout: ArrayLike) -> float:
    """Compute a statistic with every row counted once."""
    sets = [np.asarray(scores, dtype=np.float64) for scores in (forget, holdout)]
    for scores, name in zip(sets, ("forget", "holdout"), strict=True):
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} needs one score per row and at least one row, got shape {scores.shape}")
        if np.isnan(scores).any():
            raise ValueError(f"{name} contains NaN; remove rows without a score")
    return float(statistic(*sets, *(np.ones((1, len(scores))) for scores in sets))[0])


def _counts_by_score(
    forget: Floats, holdout: Floats, forget_weights: Floats, holdout_weights: Floats
) -> tuple[Floats, Floats]:
    """Return the row counts of both sets at each distinct score, lowest first: two arrays (b, distinct scores)."""
    pooled = np.concatenate([forget, holdout])
    order = np.argsort(pooled, kind="stable")
    ordered = pooled[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    is_forget = order < len(forget)
    weights = np.concatenate([forget_weights, holdout_weights], axis=1)[:, order]
    forget_counts = np.add.reduceat(weights * is_forget, starts, axis=1)
    holdout_counts = np.add.reduceat(weights * ~is_forget, starts, axis=1)
    return forget_counts, holdout_counts
