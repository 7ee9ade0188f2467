"""Mean over rows as a value with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.metrics.base import Better
from expunge.metrics.intervals import mean_interval
from expunge.records import Value


@dataclass(frozen=True)
class MeanSpec:
    """Description of a mean over rows."""

    how: str
    """Definition in words."""
    better: Better
    """Direction that is good."""
    needs: str
    """Missing input if no row has a score."""
    unit: str = ""


def mean_value(
    scores: Sequence[float | None], groups: Sequence[Hashable], spec: MeanSpec, *, resamples: int, seed: int
) -> Value:
    """Compute the mean of the rows that have a score, with an interval over groups; count the other rows as missing.

    Args:
        scores: One per row; None if a row could not be scored.
        groups: Group of each row.
        spec: Description of the mean.
        resamples: Bootstrap resamples; 0 for no interval.
        seed: Seed of the bootstrap.
    """
    scored = [(score, group) for score, group in zip(scores, groups, strict=True) if score is not None]
    num_missing = len(scores) - len(scored)
    if not scored:
        return Value(point=None, n_missing=num_missing, needs=spec.needs)
    values, scored_groups = np.array([score for score, _ in scored], dtype=np.float64), [group for _, group in scored]
    interval = mean_interval(values, scored_groups, resamples, seed)
    low, high = interval or (None, None)
    method = f"95% percentile interval of {resamples} bootstrap resamples of {len(set(scored_groups))} groups"
    return Value(
        point=float(values.mean()),
        low=low,
        high=high,
        n=len(values),
        n_missing=num_missing,
        how=f"{spec.how}; {method if interval else 'no interval'}",
        unit=spec.unit,
        better=spec.better,
    )
