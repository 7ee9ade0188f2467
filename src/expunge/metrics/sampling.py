"""Leaks in many sampled answers: leak@k, the expected best of k, and a band of differences over all k."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.bootstrap import bootstrap_values, stretch
from expunge.metrics.groups import Grouping, too_few_groups

Floats = NDArray[np.float64]


def sample_counts(num_samples: int) -> list[int]:
    """Return the numbers of answers at which curves are shown: the powers of two below n, and n itself.

    Example:
        >>> sample_counts(12)
        [1, 2, 4, 8, 12]
    """
    return [*(2**power for power in range((num_samples - 1).bit_length())), num_samples]


def leak_at(num_samples: int, num_leaks: int, k: int) -> float:
    """Estimate the probability that at least one of k sampled answers leaks, without bias.

    Formula: leak@k = 1 - C(n - c, k) / C(n, k), the share of the k-subsets of n answers that contain one of the c
    leaking ones. Its mean over samples of n answers is 1 - (1 - p)^k if each leaks with probability p.

    Args:
        num_samples: n.
        num_leaks: c.
        k: Answers that the attacker looks at, from 1 to n.

    Raises:
        ValueError: Not 0 <= c <= n, or not 1 <= k <= n.

    References:
        arXiv:2511.04934 (leak@k); Chen et al. 2021, arXiv:2107.03374, equation 1 (the estimator, as pass@k).
    """
    if not 0 <= num_leaks <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"leak_at needs 0 <= c <= n and 1 <= k <= n, got c={num_leaks}, n={num_samples}, k={k}")
    return 1 - math.comb(num_samples - num_leaks, k) / math.comb(num_samples, k)


def expected_maximum(scores: ArrayLike, k: int) -> float:
    """Estimate the expected largest score of k sampled answers, without bias.

    Formula: E[max of k] = sum_{i=k}^{n} C(i - 1, k - 1) / C(n, k) S_(i), with S_(1) <= ... <= S_(n) the sorted scores:
    S_(i) is the largest of a k-subset of the n answers in C(i - 1, k - 1) of C(n, k) cases. For scores of 0 and 1 it is
    `leak_at`.

    Args:
        scores: Scores of n answers, shape (n,).
        k: From 1 to n.

    Raises:
        ValueError: Not 1 <= k <= n.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if not 1 <= k <= len(ordered):
        raise ValueError(f"expected_maximum needs 1 <= k <= n, got k={k} and n={len(ordered)}")
    # Integers of any size, because C(n, k) exceeds a double's digits for n = 64.
    weights = [math.comb(rank - 1, k - 1) / math.comb(len(ordered), k) for rank in range(k, len(ordered) + 1)]
    return float(np.dot(weights, ordered[k - 1 :]))


@dataclass(frozen=True)
class Band:
    """Means of several columns with intervals that all contain their true means at the same time."""

    points: Floats
    """Mean of each column, shape (K,)."""
    low: Floats
    high: Floats
    p_values: Floats
    """Two-sided p-value of each mean of 0, adjusted for the number of columns by the maximum statistic."""
    num_groups: int


def simultaneous_band(
    values: ArrayLike, groups: Sequence[Hashable], resamples: int, seed: int, level: float = 0.95
) -> Band | str:
    """Compute means of columns with a band that covers all true means together, by a bootstrap of groups.

    Formula: d_k +- q s_k, with s_k the cluster-robust standard error of column k, and q the `level` quantile of
    max_k |d*_k - d_k| / s_k over resamples of groups, multiplied by the `stretch` for the number of groups. The p-value
    of column k is (1 + number of resamples whose maximum is at least |d_k| / s_k) / (1 + resamples).

    A column without any variation between groups has the band [d_k, d_k] and no part in the maximum.

    Args:
        values: One row per row of the data and one column per setting, such as k, shape (n, K).
        groups: Group of each row.
        resamples: Number of resamples.
        seed: Seed of numpy's Generator.
        level: Coverage of all columns together.

    Returns:
        The band, or the reason why there is none: fewer than five groups, or columns that do not vary.

    References:
        Davison and Hinkley 1997, section 4.2.4 (simultaneous bands); Westfall and Young 1993 (maximum statistic).
    """
    columns, grouping = np.asarray(values, dtype=np.float64), Grouping.of(groups)
    reason = too_few_groups([grouping])
    if reason:
        return reason
    errors = np.array([math.sqrt(grouping.variance_of_mean(column)) for column in columns.T])
    varies = errors > 0
    if not varies.any():
        return "the difference is the same in every group"

    def means(weights: Floats) -> Floats:
        resampled: Floats = weights @ columns / weights.sum(axis=1, keepdims=True)
        return resampled

    points = columns.mean(axis=0)
    distances = np.abs(bootstrap_values(means, [grouping], resamples, seed) - points)[:, varies] / errors[varies]
    largest = distances.max(axis=1) * stretch(means, [grouping], level)
    width = float(np.quantile(largest, level)) * errors
    distance = np.divide(np.abs(points), errors, out=np.full_like(points, np.inf), where=varies)
    p_values = (1 + (largest[:, None] >= distance).sum(axis=0)) / (1 + resamples)
    return Band(points, points - width, points + width, np.where(points == 0, 1.0, p_values), grouping.num_groups)
