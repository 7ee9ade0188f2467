"""A mean over rows as a value with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from expunge.metrics.base import Better
from expunge.metrics.intervals import mean_interval
from expunge.records import Value


def mean_value(
    scores: Sequence[float | None],
    groups: Sequence[Hashable],
    *,
    how: str,
    better: Better,
    needs: str,
    resamples: int,
    seed: int,
    unit: str = "",
) -> Value:
    """Mean of the rows that have a score, with a bootstrap over whole groups; the others are counted as missing.

    Args:
        scores: One per row; None where a row could not be scored.
        groups: Group of each row.
        how: What the number is, in words.
        better: Which direction is good.
        needs: What is missing where not a single row has a score.
        resamples: Bootstrap resamples; 0 for no interval.
        seed: Seed of the bootstrap.
        unit: Unit of the number.
    """
    present = [(score, group) for score, group in zip(scores, groups, strict=True) if score is not None]
    num_missing = len(scores) - len(present)
    if not present:
        return Value(point=None, n_missing=num_missing, needs=needs)
    values, kept = np.array([score for score, _ in present], dtype=np.float64), [group for _, group in present]
    interval = mean_interval(values, kept, resamples, seed)
    low, high = interval or (None, None)
    drawn = f"95% percentile interval of {resamples} bootstrap draws of {len(set(kept))} groups"
    return Value(
        point=float(values.mean()),
        low=low,
        high=high,
        n=len(values),
        n_missing=num_missing,
        how=f"{how}; {drawn if interval else 'no interval'}",
        unit=unit,
        better=better,
    )
