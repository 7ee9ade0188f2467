"""Thresholds of leaks, calibrated on the retain model: it never saw the answers, so whatever it reveals is a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.audits.shared.folds import group_folds

_ABOVE = 1e-9
"""A threshold must be above the largest share that is no leak; two shares of words differ by more than this."""


def smallest_threshold(shares: Sequence[float], false_alarms: float) -> float:
    """Return the smallest threshold with at most the given rate of false alarms.

    Formula: the smallest t with (1 + #{i: share_i >= t}) / (1 + n) <= a. The 1 stands for the row that will be judged:
    if it is exchangeable with the n rows, it is a false alarm with a probability of at most a (split conformal
    prediction). Fewer than 1 / a - 1 rows cannot ensure this; then t is above all of them. t is at most 1, the full
    answer, and 1 without any rows.

    Args:
        shares: Shares of the answers that a model gives away which never saw them.
        false_alarms: Rate a, between 0 and 1.

    References:
        Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World, section 2.2.
    """
    if not shares:
        return 1.0
    allowed = max(0, math.floor(false_alarms * (len(shares) + 1) + _ABOVE) - 1)
    return min(1.0, sorted(shares, reverse=True)[allowed] + _ABOVE)


def cross_fitted_thresholds(
    shares: Mapping[str, float | None], groups: Mapping[str, str], false_alarms: float, num_folds: int
) -> dict[str, float]:
    """Return a threshold per row that was calibrated on the rows of other groups.

    A threshold fitted to a row itself would know the chance of that row.

    Args:
        shares: Row -> share of the answer that the retain model reveals; None where it was not measured.
        groups: Row -> its group, for all rows that need a threshold.
        false_alarms: Share of the rows of the retain model that may reach their threshold.
        num_folds: Folds of groups; at most as many as there are groups are used.

    Returns:
        Row -> threshold; empty if a fold has no other rows to be calibrated on.
    """
    rows, thresholds = list(groups), dict[str, float]()
    for fold in group_folds(list(groups.values()), num_folds):
        others = [share for index in np.flatnonzero(~fold) if (share := shares.get(rows[index])) is not None]
        if not others:
            return {}
        threshold = smallest_threshold(others, false_alarms)
        thresholds |= dict.fromkeys((rows[index] for index in np.flatnonzero(fold)), threshold)
    return thresholds
