"""The two-sample Kolmogorov-Smirnov test: p-values, the interval of its distance, and a paired version for groups."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.bootstrap import bootstrap_values, stretch
from expunge.metrics.groups import Grouping, count_groups, too_few_groups
from expunge.metrics.intervals import Interval
from expunge.metrics.permutation import smallest_swap_pvalue, swap_patterns

Floats = NDArray[np.float64]

_SMALLEST_PVALUE = 1e-300
"""Below this, a double loses digits or underflows, so the logarithm is computed directly from the formula."""
_CHUNK_ELEMENTS = 4_000_000
"""Elements of distribution functions in memory at a time: 32 MB in float64."""


@dataclass(frozen=True)
class KsTest:
    """Result of a two-sample Kolmogorov-Smirnov test."""

    statistic: float
    """D: the largest distance between the two empirical distribution functions."""
    pvalue: float
    log10_pvalue: float
    """Finite even if `pvalue` underflows to 0."""


def ks_test(first: ArrayLike, second: ArrayLike) -> KsTest:
    """Run a two-sided two-sample Kolmogorov-Smirnov test, with a log p-value that stays finite.

    The p-value is scipy's (`ks_2samp`, method 'auto': exact up to 10000 values per sample). Where it is below
    1e-300, the logarithm is computed from the exact series of `log_pvalue_equal_sizes` for samples of equal size,
    and from the leading term of Kolmogorov's limit, p ~ 2 exp(-2 D^2 n m / (n + m)), for samples of unequal size.

    Args:
        first: Shape (n,).
        second: Shape (m,).

    Raises:
        ValueError: A sample is empty or contains NaN.
    """
    from scipy.stats import ks_2samp

    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or not len(x) or not len(y):
        raise ValueError(f"the test needs two non-empty samples, got shapes {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("the test is not defined for NaN; remove missing rows from both samples")
    with warnings.catch_warnings():
        # Where the exact sum overflows, scipy falls back to the asymptotic p-value and warns.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = ks_2samp(x, y, alternative="two-sided", method="auto")
    statistic, pvalue = float(result.statistic), float(result.pvalue)
    if pvalue >= _SMALLEST_PVALUE:
        log10_pvalue = math.log10(pvalue)
    elif len(x) == len(y):
        log10_pvalue = log_pvalue_equal_sizes(round(statistic * len(x)), len(x)) / math.log(10)
    else:
        effective_size = len(x) * len(y) / (len(x) + len(y))
        log10_pvalue = (math.log(2) - 2 * effective_size * statistic**2) / math.log(10)
    return KsTest(statistic, pvalue, log10_pvalue)


def log_pvalue_equal_sizes(steps: int, size: int) -> float:
    """Compute the natural logarithm of the exact p-value of D = steps/size for two samples of `size` values each.

    Formula: P(D >= h/n) = 2 sum_{k>=1} (-1)^(k-1) C(2n, n - kh) / C(2n, n). The first term is factored out of the
    sum as a logarithm, so that nothing underflows.

    Args:
        steps: h = D * n, an integer from 0 to n.
        size: n.

    References:
        Gnedenko and Korolyuk 1951 (reflection of lattice paths).
    """
    from scipy.special import gammaln

    if steps <= 0:
        return 0.0
    multiples = steps * np.arange(1, size // steps + 1)
    log_terms = 2 * gammaln(size + 1) - gammaln(size - multiples + 1) - gammaln(size + multiples + 1)
    signs = np.where(np.arange(len(multiples)) % 2 == 0, 1.0, -1.0)
    relative_sum = float((signs * np.exp(log_terms - log_terms[0])).sum())
    return min(0.0, math.log(2) + float(log_terms[0]) + math.log(relative_sum))


def smallest_ks_pvalue(size: int) -> float:
    """Return the smallest p-value of two samples of `size` values each, that of D = 1.

    Formula: 2 / C(2n, n). Of the C(2n, n) equally likely orders of both samples, two separate them.
    """
    return math.exp(log_pvalue_equal_sizes(size, size))


def log_pvalue_at(distance: float, size: int) -> float:
    """Compute the natural logarithm of P(D >= distance) for two samples of `size` values each.

    The exact distribution is that of `log_pvalue_equal_sizes`; D is a multiple of 1 / size.
    """
    # Distances are computed in floating point, so a multiple of 1 / size may be slightly above itself.
    return log_pvalue_equal_sizes(math.ceil(distance * size - 1e-9), size)


@dataclass(frozen=True)
class PairedScores:
    """Scores of the same rows under two models, and the difference F - G of their distribution functions.

    F and G are step functions, and their difference changes only at pooled scores. There it is a partial sum of the
    rows in the order of their scores, which count +1/n for the first model and -1/n for the second.
    """

    rows: NDArray[np.int64]
    """Row of each pooled score, lowest score first, shape (2n,)."""
    signs: Floats
    """1 for a score of the first model, -1 for one of the second, in the same order."""
    ends: NDArray[np.int64]
    """Index of the last of each set of equal scores, where the functions are compared."""
    grouping: Grouping

    @classmethod
    def of(cls, first: ArrayLike, second: ArrayLike, groups: Sequence[Hashable]) -> PairedScores:
        """Sort the scores of both models, which are paired by position."""
        pooled = np.concatenate([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
        order = np.argsort(pooled, kind="stable")
        ordered, num_rows = pooled[order], len(pooled) // 2
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        return cls(order % num_rows, np.where(order < num_rows, 1.0, -1.0), ends, Grouping.of(groups))

    def difference(self, weights: Floats) -> Floats:
        """Return n (F - G) at each distinct score, for rows with the given weights of shape (b, n)."""
        return np.asarray(np.cumsum(weights[:, self.rows] * self.signs, axis=1)[:, self.ends], dtype=np.float64)


def distance_interval(scores: PairedScores, resamples: int, seed: int, level: float = 0.95) -> Interval:
    """Compute an interval of the largest distance D = sup |F - G| between the distributions of two models.

    Formula: [max(0, D - q), min(1, D + q)], where q is k times the quantile at `level` of
    sup |(F* - G*) - (F - G)| over resamples (F*, G*) of groups, with the same groups for both models, and k is their
    `stretch`.

    Derivation: for the true distributions F0 and G0, |D - D0| <= sup |(F - G) - (F0 - G0)| by the triangle inequality.
    The resamples vary around (F, G) as (F, G) varies around (F0, G0), so the supremum is at most q with a
    probability of about `level`, and the interval contains D0 with at least this probability. The percentiles of
    D* = sup |F* - G*| are no such interval: resampling adds differences, so D* exceeds D where F0 and G0 are alike.

    Args:
        scores: Scores of both models.
        resamples: Number of resamples; 0 for no interval.
        seed: Seed of the bootstrap.
        level: Coverage.

    Returns:
        The interval; none below five groups.

    References:
        Bickel and Freedman 1981, doi:10.1214/aos/1176345637 (bootstrap of the empirical process).
    """
    reason = too_few_groups([scores.grouping])
    if resamples <= 0 or reason:
        return Interval.missing(reason if resamples > 0 else "")
    difference = scores.difference(np.ones((1, scores.grouping.num_rows))) / scores.grouping.num_rows

    def largest_deviation(weights: Floats) -> Floats:
        resampled = scores.difference(weights) / weights.sum(axis=1, keepdims=True)
        return np.asarray(np.abs(resampled - difference).max(axis=1), dtype=np.float64)

    deviations = bootstrap_values(largest_deviation, [scores.grouping], resamples, seed)
    factor = stretch(largest_deviation, [scores.grouping], level)
    distance, margin = float(np.abs(difference).max()), factor * float(np.quantile(deviations, level))
    low, high = max(0.0, distance - margin), min(1.0, distance + margin)
    how = (
        f"{level:.0%} interval [{low:.3g}, {high:.3g}] of the distance from {resamples} bootstrap resamples of "
        f"{count_groups([scores.grouping])}, stretched by {factor:.2f} for their number"
    )
    return Interval(low, high, how)


@dataclass(frozen=True)
class PairedKsTest:
    """Result of a Kolmogorov-Smirnov test between two models on the same rows, by swaps of the models in groups."""

    pvalue: float
    smallest_pvalue: float
    """Smallest p-value that this number of groups can give."""
    how: str
    """Number and kind of the swaps."""


def paired_ks_test(scores: PairedScores, seed: int) -> PairedKsTest:
    """Test whether two models have the same distribution of scores, given that they were scored on the same rows.

    If the two models are alike, swapping their scores in all rows of a group is as likely as the data. The p-value is
    the share of such swaps with a distance of at least D. It is exact for rows that depend on each other within a
    group, and for scores of the two models that are correlated because the rows are the same, neither of which the
    test for independent samples (`ks_test`) allows for.

    Args:
        scores: Scores of both models.
        seed: Seed of the swaps, which are sampled for more than 13 groups and enumerated otherwise.

    References:
        Fisher 1935, The Design of Experiments, section 21; Praestgaard 1995, Scandinavian Journal of Statistics
        22(3), 305-322 (permutation Kolmogorov-Smirnov tests).
    """
    grouping = scores.grouping
    signs, is_exact = swap_patterns(grouping.num_groups, seed)
    size = max(1, _CHUNK_ELEMENTS // (2 * grouping.num_rows))
    distances = np.concatenate(
        [
            np.abs(scores.difference(signs[start : start + size][:, grouping.codes])).max(axis=1)
            for start in range(0, len(signs), size)
        ]
    )
    smallest = max(smallest_swap_pvalue(grouping.num_groups), 1 / len(signs))
    how = f"{'all' if is_exact else 'sampled'} {len(signs)} swaps of the models in {count_groups([grouping])}"
    # Distances are sums of +1 and -1 and therefore exact; the first pattern is the data.
    return PairedKsTest(float((distances >= distances[0]).mean()), smallest, how)
