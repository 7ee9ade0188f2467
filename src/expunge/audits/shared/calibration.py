"""Thresholds of leaks, calibrated on the retain model: it never saw the answers, so whatever it reveals is a guess."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


def calibrated_threshold(shares: ArrayLike, level: float) -> float:
    """Return the smallest threshold t that at most `level` of the shares reach: mean(share >= t) <= level.

    Args:
        shares: Share of the answer that a model without the knowledge reveals in each row, shape (n,).
        level: False alarms that are allowed, from 0 to 1.

    Returns:
        One of the shares, or the next number above the largest if more than `level` of the rows are equal to it; it is
        then above 1 if such a model reveals full answers, so that no row can leak.

    Raises:
        ValueError: There are no shares.
    """
    array = np.sort(np.asarray(shares, dtype=np.float64))
    if not len(array):
        raise ValueError("calibrated_threshold needs at least one share")
    candidates = np.unique(array)
    reached = 1 - np.searchsorted(array, candidates, side="left") / len(array)
    allowed = candidates[reached <= level]
    return float(allowed[0] if len(allowed) else np.nextafter(array[-1], np.inf))


def folds_of(groups: Sequence[Hashable], num_folds: int) -> list[int]:
    """Return the fold of each row; the rows of a group have the same one, and groups are dealt out in their order."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) % num_folds for group in groups]


def cross_fitted_thresholds(
    shares: Mapping[str, float | None], groups: Mapping[str, str], level: float, num_folds: int
) -> dict[str, float]:
    """Return a threshold per row that was calibrated on the rows of other groups.

    A threshold fitted to a row itself would know the chance of that row, and the retain model would keep the level
    exactly by construction.

    Args:
        shares: Row -> share of the answer that the retain model reveals; None where it was not measured.
        groups: Row -> its group, for all rows that need a threshold.
        level: Share of the rows of the retain model that may reach their threshold.
        num_folds: Folds of groups; at most as many as there are groups are used.

    Returns:
        Row -> threshold; empty below two groups, or if a fold has no other rows to be calibrated on.
    """
    folds = dict(zip(groups, folds_of(list(groups.values()), num_folds), strict=True))
    thresholds: dict[int, float] = {}
    for fold in set(folds.values()):
        others = [share for row, share in shares.items() if share is not None and folds[row] != fold]
        if not others:
            return {}
        thresholds[fold] = calibrated_threshold(others, level)
    return {row: thresholds[fold] for row, fold in folds.items()}
