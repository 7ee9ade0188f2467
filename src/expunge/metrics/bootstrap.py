"""Confidence intervals of any statistic of grouped rows, by a bootstrap stretched for the number of groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.groups import Grouping, count_groups, too_few_groups
from expunge.metrics.intervals import Interval, check_level, t_quantile
from expunge.metrics.proportions import wilson

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]

UNBOUNDED = (-math.inf, math.inf)
"""Range of a statistic without limits, such as a difference of means."""

_CHUNK_ELEMENTS = 4_000_000
"""Row counts in memory at a time: 32 MB in float64."""
_MANY_DEGREES = 100
"""Degrees of freedom from which t is within 1.3% of the normal quantile, so that sharing them out changes nothing."""
_LARGEST_EXPONENT = 700
"""Largest exponent whose exponential is finite in a double."""


def cluster_bootstrap(
    statistic: Statistic,
    groups: Sequence[Sequence[Hashable]],
    resamples: int,
    seed: int,
    level: float = 0.95,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Interval:
    """Compute an interval of a statistic by resampling groups of rows, stretched for the number of groups.

    The rows of one author or article are not independent, so groups are resampled instead of rows. Each sample is
    resampled by its own groups, independently of the other samples.

    Formula: g^-1(g(x) +- k g'(x) w / 2), with x the statistic of the rows themselves, w the width of the percentile
    interval of the resamples, k their `stretch`, and g the `Scale` of the statistic. For one sample of G groups of
    equal size, k = t(G - 1) / z * sqrt(G / (G - 1)), where t and z are quantiles of Student's t and of the normal
    distribution.

    Percentile intervals themselves are too narrow for few groups, and near an end of a range they are skewed to the
    wrong side. `perf/coverage.py` measures the coverage of the intervals of all headlines.

    At an end of a range [a, b] all resamples are equal, however different other rows may be. In the worst case the rows
    of a group are all alike, so that a group is worth one row. The interval is then Wilson's interval of a proportion
    of 0 or 1 in nu + 1 rows, with nu the fewest `Grouping.degrees_of_freedom` of a sample.

    Args:
        statistic: Called with one array per sample, shape (b, n_s): the count of each row in each of b resamples.
            Returns the statistic of every resample, shape (b,).
        groups: One sequence per sample: the group of each row of the sample.
        resamples: Number of resamples; 0 for no interval.
        seed: Seed of numpy's Generator; the same seed samples the same groups.
        level: Coverage.
        bounds: Range of the statistic.

    Returns:
        The interval; none if a sample has fewer than five groups.

    Raises:
        ValueError: `level` is not between 0 and 1.
        TypeError: `groups` is a single sample.

    References:
        Davison and Hinkley 1997, section 3.8 (resampling whole clusters); Hesterberg 2015,
        doi:10.1080/00031305.2015.1089789 (narrowness bias of percentile intervals, and their expansion).
    """
    if any(isinstance(sample, str) for sample in groups):
        raise TypeError("groups must contain one sequence per sample; wrap a single sample in a list")
    groupings = [Grouping.of(sample) for sample in groups]
    check_level(level)
    if resamples <= 0:
        return Interval.missing()
    reason = too_few_groups(groupings)
    if reason:
        return Interval.missing(reason)
    point = float(statistic(*_ones(groupings, 1))[0])
    scale = Scale(*bounds)
    if not math.isfinite(point):
        return Interval.missing("the value is not finite")
    if scale.is_end(point):
        return _at_end(point, bounds, groupings, level)
    values = bootstrap_values(statistic, groupings, resamples, seed)
    # A resample without a value is NaN and left out, such as PrivLeak if the retain model separates all its rows.
    finite = values[~np.isnan(values)]
    if not len(finite) or np.isinf(finite).any():
        return Interval.missing("the value is not finite in every resample")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    factor = stretch(statistic, groupings, level)
    ends = scale.around(point, factor * float(high - low) / 2)
    how = (
        f"{level:.0%} interval of {resamples} bootstrap resamples of {count_groups(groupings)}, "
        f"stretched by {factor:.2f} for their number"
    )
    return Interval(*ends, how)


def bootstrap_values(statistic: Statistic, groupings: Sequence[Grouping], resamples: int, seed: int) -> Floats:
    """Compute a statistic of many resamples of groups.

    Args:
        statistic: As in `cluster_bootstrap`.
        groupings: Groups of each sample.
        resamples: Number of resamples.
        seed: Seed of numpy's Generator.

    Returns:
        Shape (resamples,).
    """
    generators = [np.random.default_rng([seed, position]) for position in range(len(groupings))]

    def chunk(count: int) -> Floats:
        return statistic(
            *(_resample_counts(grouping, count, rng) for grouping, rng in zip(groupings, generators, strict=True))
        )

    size = _chunk_size(groupings)
    return np.concatenate([chunk(min(size, resamples - start)) for start in range(0, resamples, size)])


def stretch(statistic: Statistic, groupings: Sequence[Grouping], level: float) -> float:
    """Compute the factor by which the percentile interval of resamples is too narrow.

    Formula: k = t_nu / z * sqrt(c), with t_nu and z the quantiles of Student's t and of the normal distribution.

    One sample: nu is `Grouping.degrees_of_freedom`, and c = 1 / (1 - sum_g h_g^2), with h_g the share of the rows in
    group g. The variance of resampled means is sum_g S_g^2 / n^2 (S_g: sum of y - mean(y) over group g), with
    expectation sum_g n_g (1 - h_g) / n^2 = (1 - sum_g h_g^2) / n for independent rows of unit variance, instead of
    1 / n. For G equal groups, nu = G - 1 and c = G / (G - 1).

    Several samples: with V_s the variance of the statistic due to sample s, c = sum_s V_s c_s / sum_s V_s and
    nu = (sum_s V_s)^2 / sum_s (V_s^2 / nu_s), as in Welch's test. V_s is a jackknife variance,
    sum_g (1 - h_g) (x_g - x)^2, with x_g the statistic without group g of sample s; for a mean it is equal to
    `Grouping.variance_of_mean`, as x_g - x = -S_g / (n - n_g).

    Args:
        statistic: As in `cluster_bootstrap`.
        groupings: Groups of each sample.
        level: Coverage of the interval.

    References:
        Welch 1947, doi:10.1093/biomet/34.1-2.28.
    """
    degrees = np.array([grouping.degrees_of_freedom for grouping in groupings])
    corrections = np.array([1 / (1 - (grouping.shares**2).sum()) for grouping in groupings])
    variances = np.ones(len(groupings))
    if len(groupings) > 1 and degrees.min() < _MANY_DEGREES:
        variances = _jackknife_variances(statistic, groupings)
    total = variances.sum()
    if total == 0:
        variances, total = np.ones(len(groupings)), float(len(groupings))
    correction = (variances * corrections).sum() / total
    degrees_of_freedom = total**2 / (variances**2 / degrees).sum()
    normal = NormalDist().inv_cdf((1 + level) / 2)
    return float(t_quantile(degrees_of_freedom, level) / normal * math.sqrt(correction))


@dataclass(frozen=True)
class Scale:
    """A scale on which a statistic with the range [low, high] is closer to normal, and intervals stay in the range.

    Formula: g(x) = log((x - low) / (high - x)) for a bounded range, log(x - low) without an upper bound, and x without
    bounds.
    """

    low: float
    high: float

    def is_end(self, value: float) -> bool:
        """Return whether a value is at an end of the range, where the scale is infinite."""
        return value <= self.low or value >= self.high

    def around(self, value: float, half_width: float) -> tuple[float, float]:
        """Return the ends of an interval with the given half-width that is symmetric around the value on this scale.

        The half-width is converted by the derivative g'(x) (delta method), so that it is finite even if the interval
        would leave the range on the linear scale.
        """
        if math.isinf(self.low):
            return value - half_width, value + half_width
        above = value - self.low
        if math.isinf(self.high):
            factor = math.exp(min(half_width / above, _LARGEST_EXPONENT))
            return self.low + above / factor, self.low + above * factor
        below = self.high - value
        factor = math.exp(min(half_width * (1 / above + 1 / below), _LARGEST_EXPONENT))
        width = self.high - self.low
        return self.low + width * above / (above + below * factor), self.low + width * above / (above + below / factor)


def weighted_mean(values: ArrayLike, weights: Floats) -> Floats:
    """Compute the mean of each resample over the rows whose value is not NaN.

    Args:
        values: Shape (n,).
        weights: Count of each row in each resample, shape (b, n).

    Returns:
        Shape (b,); NaN for a resample in which every value is NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(array)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights[:, present] @ array[present]) / weights[:, present].sum(axis=1), dtype=np.float64)


def _at_end(point: float, bounds: tuple[float, float], groupings: Sequence[Grouping], level: float) -> Interval:
    low, high = bounds
    if math.isinf(high):
        return Interval.missing(f"the value is at the end of its range, {point:g}, where resamples do not vary")
    trials = min(grouping.degrees_of_freedom for grouping in groupings) + 1
    start, end = wilson(trials if point >= high else 0, trials, level)
    how = f"{level:.0%} Wilson interval for a value at the end of its range, {count_groups(groupings)}"
    return Interval(low + start * (high - low), low + end * (high - low), how)


def _jackknife_variances(statistic: Statistic, groupings: Sequence[Grouping]) -> Floats:
    """Return the variance of the statistic due to each sample; formula: `stretch`."""
    point = statistic(*_ones(groupings, 1))[0]
    size = _chunk_size(groupings)
    variances = []
    for position, grouping in enumerate(groupings):
        squares = np.empty(grouping.num_groups)
        for start in range(0, grouping.num_groups, size):
            omitted = np.arange(start, min(start + size, grouping.num_groups))
            weights = _ones(groupings, len(omitted))
            weights[position] = (grouping.codes != omitted[:, None]).astype(np.float64)
            squares[omitted] = (statistic(*weights) - point) ** 2
        variances.append(np.nansum((1 - grouping.shares) * squares))
    return np.array(variances)


def _ones(groupings: Sequence[Grouping], num_resamples: int) -> list[Floats]:
    """Return row counts with which every row counts once."""
    return [np.ones((num_resamples, grouping.num_rows)) for grouping in groupings]


def _resample_counts(grouping: Grouping, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Sample groups with replacement; returns the count of each row, shape (num_resamples, n)."""
    num_groups = grouping.num_groups
    counts = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples)
    return counts[:, grouping.codes].astype(np.float64)


def _chunk_size(groupings: Sequence[Grouping]) -> int:
    return max(1, _CHUNK_ELEMENTS // sum(grouping.num_rows for grouping in groupings))
