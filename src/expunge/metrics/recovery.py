"""Effects of attacks: means over grouped rows with one-sided and equivalence tests, and corrections for many tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.groups import MIN_GROUPS, Grouping, too_few_groups
from expunge.metrics.intervals import Interval, check_level, t_quantile

Floats = NDArray[np.float64]


_PRIOR_CORRELATION = 0.2
"""Correlation within groups assumed without events, as for proportions (`metrics.proportions`)."""
_PRIOR_EVENTS = 2
"""Number of events with as much weight as the assumed correlation."""
_FARTHEST = 100.0
"""Largest distance at which an end of an interval of R is searched."""


@dataclass(frozen=True)
class Mean:
    """The mean of rows in groups, with its cluster-robust standard error."""

    value: float
    """Centre of intervals and tests; the mean of the rows, or slightly less for outcomes at the ends of a scale."""
    error: float
    """Standard error of `value`."""
    degrees_of_freedom: float
    num_rows: int
    num_groups: int

    @classmethod
    def of(cls, values: ArrayLike, groups: Sequence[Hashable] | Grouping, ends: float = 0.0) -> Mean | None:
        """Estimate the mean of differences between two models.

        For graded scores, such as probabilities: the mean of the rows with the standard error
        sqrt(`Grouping.variance_of_mean`).

        Outcomes of 0 and 1 need more. Where few rows differ between two models, the spread of the data is too small:
        if no row leaks it is 0, and five rows without a leak would prove that there is none among all. So the estimate
        is that of the n / deff independent rows that the n rows are worth, with `ends` rows of +1 and `ends` rows of -1
        added: for `ends` = 1 and independent rows it is the adjusted Wald interval of Bonett and Price for a paired
        difference of proportions. The design effect deff = 1 + (n_0 - 1) max(0, rho) is that of
        `metrics.proportions.proportion_interval`, with the rows that do not have the most common value as events.

        Args:
            values: One difference per row, shape (n,).
            groups: Group of each row; rows of one group may depend on each other.
            ends: Share of the rows whose scores are all at an end of their scale, 0 or 1.

        Returns:
            The mean; None below five groups, whose spread is not known well enough for a test.

        References:
            Bonett and Price 2012, doi:10.3102/1076998611411915.
        """
        array = np.asarray(values, dtype=np.float64)
        grouping = groups if isinstance(groups, Grouping) else Grouping.of(groups)
        if grouping.num_groups < MIN_GROUPS:
            return None
        mean, variance = float(array.mean()), grouping.variance_of_mean(array)
        if ends > 0:
            square = float((array**2).mean())
            effective = grouping.num_rows / _design_effect(array, grouping, variance)
            total = effective + 2 * ends
            mean = mean * effective / total
            variance = ((square * effective + 2 * ends) / total - mean**2) / total
        return cls(mean, math.sqrt(variance), grouping.degrees_of_freedom, grouping.num_rows, grouping.num_groups)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the t interval, value +- t_nu error."""
        half = t_quantile(self.degrees_of_freedom, level) * self.error
        how = f"{level:.0%} t interval of {self.num_rows} rows in {self.num_groups} groups"
        return Interval(self.value - half, self.value + half, how)

    def p_above(self, limit: float = 0.0) -> float:
        """Return the one-sided p-value of the hypothesis that the mean is at most `limit`: P(T_nu >= (m - limit) / s).

        Without any spread between groups it is 0 above the limit and 1 otherwise.
        """
        return _tail((self.value - limit), self.error, self.degrees_of_freedom)

    def p_below(self, limit: float = 0.0) -> float:
        """Return the one-sided p-value of the hypothesis that the mean is at least `limit`."""
        return _tail((limit - self.value), self.error, self.degrees_of_freedom)

    def p_different(self, margin: float) -> float:
        """Return the p-value of the hypothesis that the mean differs from 0 by `margin` or more.

        It is the larger p-value of two one-sided tests (TOST), against -margin and against +margin. Below `level`, the
        1 - 2 level interval lies within the margin.

        References:
            Schuirmann 1987, doi:10.1007/BF01068419.
        """
        return max(self.p_above(-margin), self.p_below(margin))

    def detectable(self, level: float, power: float = 0.8) -> float:
        """Return the smallest true mean that a one-sided test at `level` would find with the given power.

        Formula: (t_nu(1 - level) + t_nu(power)) s.
        """
        from scipy.special import stdtrit

        check_level(level)
        quantiles = stdtrit(self.degrees_of_freedom, 1 - level) + stdtrit(self.degrees_of_freedom, power)
        return float(quantiles * self.error)

    def groups_for(self, margin: float, level: float, power: float = 0.8) -> int:
        """Return about how many groups like these would show a mean of 0 to be within the margin, with the given power.

        Formula: G' = G ((z(1 - level) + z((1 + power) / 2)) s / margin)^2, with z the normal quantiles: both one-sided
        tests must succeed, and the standard error s falls with the root of the number of groups G.
        """
        quantiles = NormalDist().inv_cdf(1 - level) + NormalDist().inv_cdf((1 + power) / 2)
        return max(MIN_GROUPS, math.ceil(self.num_groups * (quantiles * self.error / margin) ** 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests, so that all tests together have one false alarm with the given level.

    Formula: in ascending order, p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)).

    References:
        Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(order)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * float(p_values[index])))
        adjusted[int(index)] = largest
    return adjusted


def residual(
    unlearned: ArrayLike,
    retain: ArrayLike,
    target: ArrayLike,
    groups: Sequence[Hashable] | Grouping,
    level: float = 0.95,
) -> tuple[float | None, Interval]:
    """Compute the share of the target's knowledge that is left in the unlearned model.

    Formula: R = (A(u) - A(r)) / (A(t) - A(r)), with A the mean of the rows of the unlearned model u, the retain model r
    and the target t. 0 is a model that knows no more than one that never saw the rows, 1 one that knows all that the
    target knows.

    The interval holds all ratios x that a t test of the groups (`Mean`) does not reject: those with
    |mean(u - r - x (t - r))| <= t_nu s(x), where s(x) is the standard error of that mean. It needs no resamples, and
    for few groups it has the stated coverage where percentiles of a bootstrap are too narrow.

    Args:
        unlearned: One value per row, shape (n,).
        retain: The same rows of the retain model.
        target: The same rows of the target.
        groups: Group of each row.
        level: Coverage of the interval.

    Returns:
        R and its interval; None if the target knows no more than the retain model, so that nothing could be left. There
        is no interval if the rows do not show that the target knows more, because every ratio is possible then.

    References:
        Fieller 1954, Journal of the Royal Statistical Society B 16(2), 175-185 (interval of a ratio of means).
    """
    u, r, t = (np.asarray(values, dtype=np.float64) for values in (unlearned, retain, target))
    if not len(u) or float(t.mean() - r.mean()) <= 0:
        return None, Interval.missing("the target does not know more than the retain model")
    point = float((u - r).mean() / (t - r).mean())
    grouping = groups if isinstance(groups, Grouping) else Grouping.of(groups)
    reason = too_few_groups([grouping])
    known = Mean.of(t - r, grouping, share_at_ends(t, r))
    if known is None or reason:
        return point, Interval.missing(reason)
    if (known.interval(level).low or 0.0) <= 0:
        return point, Interval.missing("the rows are too few to show that the target knows more than the retain model")
    ends = share_at_ends(u, r, t)

    def beyond(ratio: float) -> float:
        """Return by how much a ratio is beyond the limit of the test; at most 0 if it is not rejected."""
        # Differences of up to 1 + |x| are divided by it, so that the rows that `Mean` adds have their scale.
        tested = Mean.of((u - r - ratio * (t - r)) / (1 + abs(ratio)), grouping, ends)
        quantile = t_quantile(grouping.degrees_of_freedom, level)
        return 0.0 if tested is None else abs(tested.value) - quantile * tested.error

    low, high = (_limit(beyond, point, side) for side in (-1, 1))
    if low is None or high is None:
        return point, Interval.missing("the rows are too few to bound the ratio")
    how = f"{level:.0%} interval of ratios that a t test of {grouping.num_groups} groups does not reject"
    return point, Interval(low, high, how)


def share_at_ends(*scores: ArrayLike) -> float:
    """Return the share of the rows whose scores are all 0 or 1: outcomes, or scores at the end of their scale."""
    at_end = [np.isin(np.asarray(values, dtype=np.float64), (0.0, 1.0)) for values in scores]
    return float(np.logical_and.reduce(at_end).mean())


def _limit(beyond: Callable[[float], float], start: float, side: int) -> float | None:
    """Return the root of `beyond` on one side of `start`, where it is at most 0; None if it is too far away."""
    from scipy.optimize import brentq

    if beyond(start) >= 0:
        return start
    near, step = start, 0.25
    while beyond(start + side * step) <= 0:
        near, step = start + side * step, 2 * step
        if step > _FARTHEST:
            return None
    return float(brentq(beyond, near, start + side * step, xtol=1e-7))


def _design_effect(values: Floats, grouping: Grouping, variance: float) -> float:
    """Estimate the factor by which dependence within groups raises the variance of the mean; formula: `Mean.of`."""
    mean_size = float((grouping.sizes**2).sum()) / grouping.num_rows
    if mean_size == 1:
        return 1.0
    num_events = grouping.num_rows - int(np.unique(values, return_counts=True)[1].max())
    correlation = 0.0
    if num_events:
        independent = float(values.var()) / (grouping.num_rows - 1)
        correlation = (variance / independent - 1) / (mean_size - 1)
    weighted = num_events * correlation + _PRIOR_EVENTS * _PRIOR_CORRELATION
    return 1 + (mean_size - 1) * max(0.0, weighted / (num_events + _PRIOR_EVENTS))


def _tail(distance: float, error: float, degrees_of_freedom: float) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(degrees_of_freedom, -distance / error))
