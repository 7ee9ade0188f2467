"""Confidence intervals of proportions: Wilson's for independent rows, and its extension to groups of dependent rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from expunge.metrics.groups import Grouping, count_groups, too_few_groups
from expunge.metrics.intervals import Interval, t_quantile

_PRIOR_CORRELATION = 0.2
"""Intra-class correlation assumed without events: the largest that leak rates of authors showed."""
_PRIOR_EVENTS = 2
"""Number of events with as much weight as the assumed correlation."""


def wilson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion of independent rows.

    Formula: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes/n.

    Args:
        successes: k; a fraction if n is an effective number of rows.
        trials: n, above 0.
        level: Coverage.

    Raises:
        ValueError: Not 0 <= successes <= trials, or no trials.

    References:
        Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"wilson needs 0 <= successes <= trials and trials above 0, got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    proportion = successes / trials
    center = proportion + z * z / (2 * trials)
    half_width = z * math.sqrt(proportion * (1 - proportion) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The ends are exactly 0 at k = 0 and 1 at k = n, which rounding would miss.
    low = 0.0 if successes == 0 else (center - half_width) / scale
    high = 1.0 if successes == trials else (center + half_width) / scale
    return low, high


def proportion_interval(outcomes: ArrayLike, groups: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Compute Wilson's interval of a proportion of rows in groups, with an effective number of rows.

    Formula: Wilson's interval of p for n_eff = n / deff * (t_{n-1} / t_nu)^2 rows, where t are quantiles of Student's t
    and nu is `Grouping.degrees_of_freedom` (G - 1 for equal groups), which widens the interval if groups are few.

    The design effect deff = 1 + (n_0 - 1) max(0, rho) is the factor by which dependence within groups increases the
    variance of p; n_0 = sum_g n_g^2 / n is the mean group size of a row, and rho the intra-class correlation. The data
    estimate deff as V / (p (1 - p) / (n - 1)), with V = `Grouping.variance_of_mean`, and so rho. With m events, or
    non-events if these are fewer, that estimate is hardly informative for small m: one event always gives deff = 1.
    It is therefore averaged with an assumed correlation: rho = (m rho_data + 2 * 0.2) / (m + 2).

    Rows that are all groups of their own give Wilson's interval of independent rows, whatever their number.

    Args:
        outcomes: 0 or 1 per row, shape (n,).
        groups: Group of each row.
        level: Coverage.

    Returns:
        The interval; none below five groups of several rows.

    References:
        Korn and Graubard 1998, Survey Methodology 24(2), 193-201 (effective sample size with t quantiles); Franco et
        al. 2019, doi:10.1093/jssam/smy019 (in Wilson's interval).
    """
    array, grouping = np.asarray(outcomes, dtype=np.float64), Grouping.of(groups)
    num_rows, proportion = grouping.num_rows, float(array.mean())
    if grouping.num_groups == num_rows:
        return Interval(*wilson(float(array.sum()), num_rows, level), f"{level:.0%} Wilson interval of {num_rows} rows")
    reason = too_few_groups([grouping])
    if reason:
        return Interval.missing(reason)
    t_ratio = t_quantile(num_rows - 1, level) / t_quantile(grouping.degrees_of_freedom, level)
    effective = num_rows / _design_effect(array, grouping) * t_ratio**2
    return Interval(
        *wilson(proportion * effective, effective, level),
        f"{level:.0%} Wilson interval of {num_rows} rows in {count_groups([grouping])}, as wide as that of "
        f"{effective:.3g} independent rows",
    )


def _design_effect(outcomes: np.ndarray[tuple[int], np.dtype[np.float64]], grouping: Grouping) -> float:
    """Estimate the design effect of a proportion; formula: `proportion_interval`."""
    num_rows, proportion = grouping.num_rows, float(outcomes.mean())
    mean_size = float((grouping.sizes**2).sum()) / num_rows
    num_events = float(min(outcomes.sum(), num_rows - outcomes.sum()))
    correlation = 0.0
    if num_events:
        independent_variance = proportion * (1 - proportion) / (num_rows - 1)
        correlation = (grouping.variance_of_mean(outcomes) / independent_variance - 1) / (mean_size - 1)
    weighted = num_events * correlation + _PRIOR_EVENTS * _PRIOR_CORRELATION
    return 1 + (mean_size - 1) * max(0.0, weighted / (num_events + _PRIOR_EVENTS))
