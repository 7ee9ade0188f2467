"""Mean over rows as a value with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.metrics.base import Better
from expunge.metrics.intervals import Interval, mean_interval
from expunge.metrics.proportions import proportion_interval
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
    is_proportion: bool = False
    """Whether every score is 0 or 1, so that the mean is a proportion."""


def mean_value(
    scores: Sequence[float | None], groups: Sequence[Hashable], spec: MeanSpec, *, resamples: int, seed: int
) -> Value:
    """Compute the mean of the rows that have a score, with its interval; count the other rows as missing.

    Args:
        scores: One per row; None if a row could not be scored.
        groups: Group of each row.
        spec: Description of the mean.
        resamples: 0 for no interval. Means and proportions need no resamples.
        seed: Seed, as for other metrics. Means and proportions do not use it.
    """
    scored = [(score, group) for score, group in zip(scores, groups, strict=True) if score is not None]
    num_missing = len(scores) - len(scored)
    if not scored:
        return Value(point=None, n_missing=num_missing, needs=spec.needs)
    values, scored_groups = np.array([score for score, _ in scored], dtype=np.float64), [group for _, group in scored]
    value = Value(
        point=float(values.mean()),
        n=len(values),
        n_missing=num_missing,
        how=spec.how,
        unit=spec.unit,
        better=spec.better,
    )
    if not resamples:
        return Interval.missing().attach(value)
    interval = proportion_interval if spec.is_proportion else mean_interval
    return interval(values, scored_groups).attach(value)
