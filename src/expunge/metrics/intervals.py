"""Intervals: how far a number could have come out otherwise with other rows of the same kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_CHUNK = 4_000_000
"""Row counts held in memory at a time."""


def cluster_bootstrap(
    statistic: Callable[..., Floats],
    groups: Sequence[Sequence[Hashable]],
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Interval | None:
    """Percentile interval of a statistic when whole groups of rows are drawn with replacement.

    Rows of one author or article stand and fall together, so groups are drawn, not rows. Each sample is
    resampled by its own groups, independently of the other samples.

    Args:
        statistic: Called with one array of row counts per sample, shape (b, n_s), saying how often each of b
            resamples holds each row; returns the statistic of every resample, shape (b,).
        groups: One sequence per sample: the group of each of its rows.
        resamples: Number of resamples; 0 gives no interval.
        seed: Seed of numpy's Generator; the same seed draws the same groups.
        level: Share of the resamples inside the interval.

    Returns:
        Lower and upper end, or None where there is nothing to resample: no resamples, or a sample with fewer
        than two groups.

    Raises:
        ValueError: `level` is not between 0 and 1.

    References:
        Davison and Hinkley 1997, section 3.8 (resampling whole clusters).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if any(isinstance(sample, str) for sample in groups):
        raise TypeError("groups holds one sequence per sample; wrap a single sample in a list")
    codes = [_codes(sample) for sample in groups]
    if resamples <= 0 or any(len(code) == 0 or code.max() < 1 for code in codes):
        return None
    generators = [np.random.default_rng([seed, position]) for position in range(len(codes))]
    chunk = max(1, _CHUNK // sum(len(code) for code in codes))
    values = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        values.append(statistic(*(_draw(code, count, rng) for code, rng in zip(codes, generators, strict=True))))
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


def weighted_mean(values: ArrayLike, weights: Floats) -> Floats:
    """Mean of each resample; rows whose value is NaN are missing and left out.

    Args:
        values: Shape (n,).
        weights: How often each resample holds each row, shape (b, n).

    Returns:
        Shape (b,); NaN for a resample without a single present row.
    """
    array = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(array)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights[:, present] @ array[present]) / weights[:, present].sum(axis=1), dtype=np.float64)


def mean_interval(
    values: ArrayLike, groups: Sequence[Hashable], resamples: int, seed: int, level: float = 0.95
) -> Interval | None:
    """Cluster bootstrap of a mean over rows.

    Args:
        values: One value per row, shape (n,).
        groups: Group of each row.
        resamples: Number of resamples; 0 gives no interval.
        seed: Seed of the draw.
        level: Share of the resamples inside the interval.
    """
    return cluster_bootstrap(
        lambda weights: weighted_mean(values, weights), [groups], resamples=resamples, seed=seed, level=level
    )


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share, for rows that are independent.

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
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The ends are exactly 0 and 1 at k = 0 and k = n; rounding would leave them a hair off.
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == trials else (middle + half) / scale
    return low, high


def _codes(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _draw(codes: NDArray[np.int64], count: int, rng: np.random.Generator) -> Floats:
    num_groups = int(codes.max()) + 1
    drawn = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=count)
    return drawn[:, codes].astype(np.float64)
