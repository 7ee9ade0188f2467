"""Effects of attacks: means over grouped rows with one-sided and equivalence tests, and corrections for many tests."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.bootstrap import cluster_bootstrap, weighted_mean
from expunge.metrics.groups import MIN_GROUPS, Grouping
from expunge.metrics.intervals import Interval, check_level

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """The mean of rows in groups, with its cluster-robust standard error."""

    value: float
    error: float
    """Standard error, sqrt(`Grouping.variance_of_mean`)."""
    degrees_of_freedom: float
    num_rows: int
    num_groups: int

    @classmethod
    def of(cls, values: ArrayLike, groups: Sequence[Hashable]) -> Mean | None:
        """Return the mean; None below five groups, whose spread is not known well enough for a test."""
        array, grouping = np.asarray(values, dtype=np.float64), Grouping.of(groups)
        if grouping.num_groups < MIN_GROUPS:
            return None
        error = math.sqrt(grouping.variance_of_mean(array))
        return cls(
            float(array.mean()), error, grouping.degrees_of_freedom, grouping.num_rows, grouping.num_groups
        )

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
        """Return about how many groups like these would make `margin` detectable; the error falls with their root."""
        return math.ceil(self.num_groups * (self.detectable(level, power) / margin) ** 2)


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
    unlearned: ArrayLike, retain: ArrayLike, target: ArrayLike, groups: Sequence[Hashable], resamples: int, seed: int
) -> tuple[float | None, Interval]:
    """Compute the share of the target's knowledge that is left in the unlearned model.

    Formula: R = (A(u) - A(r)) / (A(t) - A(r)), with A the mean of the rows of the unlearned model u, the retain model r
    and the target t. 0 is a model that knows no more than one that never saw the rows, 1 one that knows all that the
    target knows.

    Args:
        unlearned: One value per row, shape (n,).
        retain: The same rows of the retain model.
        target: The same rows of the target.
        groups: Group of each row.
        resamples: Bootstrap resamples of groups.
        seed: Seed of the bootstrap.

    Returns:
        R and its interval; None if the target knows no more than the retain model, so that nothing could be left.
    """
    u, r, t = (np.asarray(values, dtype=np.float64) for values in (unlearned, retain, target))
    if not len(u) or float(t.mean() - r.mean()) <= 0:
        return None, Interval.missing("the target does not know more than the retain model")

    def ratio(weights: Floats) -> Floats:
        known = weighted_mean(t - r, weights)
        # Resamples in which the target knows no more than the retain model have no ratio.
        return np.where(known > 0, weighted_mean(u - r, weights) / np.where(known > 0, known, 1), np.nan)

    value = float((u - r).mean() / (t - r).mean())
    return value, cluster_bootstrap(ratio, [list(groups)], resamples, seed)


def _tail(distance: float, error: float, degrees_of_freedom: float) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(degrees_of_freedom, -distance / error))
