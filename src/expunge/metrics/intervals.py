"""Confidence intervals by cluster bootstrap, and Wilson's interval of a proportion."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_CHUNK_ELEMENTS = 4_000_000
"""Row counts in memory at a time: 32 MB in float64."""


def cluster_bootstrap(
    statistic: Callable[..., Floats],
    groups: Sequence[Sequence[Hashable]],
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Interval | None:
    """Compute a percentile interval of a statistic by resampling groups of rows with replacement.

    The rows of one author or article are not independent, so groups are resampled instead of rows. Each sample is
    resampled by its own groups, independently of the other samples.

    Args:
        statistic: Called with one array per sample, shape (b, n_s): the count of each row in each of b resamples.
            Returns the statistic of every resample, shape (b,).
        groups: One sequence per sample: the group of each row of the sample.
        resamples: Number of resamples; 0 for no interval.
        seed: Seed of numpy's Generator; the same seed samples the same groups.
        level: Share of the resamples inside the interval.

    Returns:
        Lower and upper end, or None if there is nothing to resample: no resamples, or a sample with fewer than two
        groups.

    Raises:
        ValueError: `level` is not between 0 and 1.
        TypeError: `groups` is a single sample.

    References:
        Davison and Hinkley 1997, section 3.8 (resampling whole clusters).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if any(isinstance(sample, str) for sample in groups):
        raise TypeError("groups must contain one sequence per sample; wrap a single sample in a list")
    codes = []
    for sample in groups:
        code_of: dict[Hashable, int] = {}
        codes.append(np.array([code_of.setdefault(group, len(code_of)) for group in sample], dtype=np.int64))
    if resamples <= 0 or any(len(code) == 0 or code.max() < 1 for code in codes):
        return None
    generators = [np.random.default_rng([seed, position]) for position in range(len(codes))]
    chunk = max(1, _CHUNK_ELEMENTS // sum(len(code) for code in codes))
    values = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        values.append(
            statistic(*(_resample_counts(code, count, rng) for code, rng in zip(codes, generators, strict=True)))
        )
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


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


def mean_interval(
    values: ArrayLike, groups: Sequence[Hashable], resamples: int, seed: int, level: float = 0.95
) -> Interval | None:
    """Compute a cluster-bootstrap interval of a mean over rows.

    Args:
        values: One value per row, shape (n,).
        groups: Group of each row.
        resamples: Number of resamples; 0 for no interval.
        seed: Seed of the bootstrap.
        level: Share of the resamples inside the interval.
    """
    return cluster_bootstrap(
        lambda weights: weighted_mean(values, weights), [groups], resamples=resamples, seed=seed, level=level
    )


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Compute Wilson's score interval of a proportion of independent rows.

    Formula: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes/n.

    Args:
        successes: k.
        trials: n, at least 1.
        level: Coverage.

    Raises:
        ValueError: Not 0 <= successes <= trials, or no trials.

    References:
        Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"wilson needs 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    proportion = successes / trials
    center = proportion + z * z / (2 * trials)
    half_width = z * math.sqrt(proportion * (1 - proportion) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The ends are exactly 0 at k = 0 and 1 at k = n, which rounding would miss.
    low = 0.0 if successes == 0 else (center - half_width) / scale
    high = 1.0 if successes == trials else (center + half_width) / scale
    return low, high


def _resample_counts(codes: NDArray[np.int64], num_resamples: int, rng: np.random.Generator) -> Floats:
    """Sample groups with replacement; returns the count of each row, shape (num_resamples, n)."""
    num_groups = int(codes.max()) + 1
    group_counts = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples)
    return group_counts[:, codes].astype(np.float64)
