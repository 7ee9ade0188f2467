"""Permutation tests of the difference between two models on the same rows, which swap the models in whole groups."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.groups import Grouping

Floats = NDArray[np.float64]

_EXACT_GROUPS = 13
"""Most groups of which all 2^(G-1) swaps are enumerated, 4096."""
_NUM_SWAPS = 9999
"""Sampled swaps for more groups; with the unswapped data, p is a multiple of 1e-4."""


def smallest_swap_pvalue(num_groups: int) -> float:
    """Return the smallest p-value that swaps of two models in `num_groups` groups can give.

    Formula: 2^(1 - G). There are 2^G ways to swap; a swap and its opposite give the same absolute difference, so at
    least 2 of them are as extreme as the data.
    """
    return 2.0 ** (1 - num_groups)


def sign_flip_pvalue(differences: ArrayLike, groups: Sequence[Hashable]) -> float:
    """Compute the exact two-sided p-value of a difference in counts between two models, by flips of signs per group.

    If the two models are alike, swapping them in any group is as likely as the data, and changes the sign of d_g, the
    sum of the differences over the rows of group g. The p-value is the share of the 2^G sign patterns s with
    |sum_g s_g d_g| >= |sum_g d_g|. It is exact for rows that depend on each other within a group. For groups of one row
    with differences of -1, 0 and 1 it is the exact test of McNemar.

    The distribution of sum_g s_g d_g is computed group by group: after group g, P(t) = (P(t - d_g) + P(t + d_g)) / 2.
    Integer differences make this exact for any number of groups, in O(G sum_g |d_g|) steps.

    Args:
        differences: Integer difference of each row, first model minus second, shape (n,).
        groups: Group of each row.

    Raises:
        ValueError: A difference is not an integer.

    References:
        Fisher 1935, The Design of Experiments, section 21; Pagano and Tritchler 1983,
        doi:10.1080/01621459.1983.10477991 (exact distributions in polynomial time); McNemar 1947,
        doi:10.1007/BF02295996.
    """
    values = np.asarray(differences, dtype=np.float64)
    if (values != np.rint(values)).any():
        raise ValueError("sign flips are exact for integer differences only")
    sums = np.rint(Grouping.of(groups).sums(values)).astype(np.int64)
    # Shifted by sum |d_g|, the total is an even number 2 k, and index k holds its probability.
    probabilities = np.ones(1)
    for size in np.abs(sums[sums != 0]):
        unchanged = np.pad(probabilities, (size, 0))
        flipped = np.pad(probabilities, (0, size))
        probabilities = (unchanged + flipped) / 2
    totals = 2 * np.arange(len(probabilities)) - (len(probabilities) - 1)
    return min(1.0, float(probabilities[np.abs(totals) >= abs(sums.sum())].sum()))


def swap_patterns(num_groups: int, seed: int) -> tuple[Floats, bool]:
    """Return which groups have their models swapped, in all distinct ways or in a sample of them.

    Args:
        num_groups: G.
        seed: Seed of numpy's Generator, for more than 13 groups.

    Returns:
        Signs, shape (patterns, G), -1 for swapped groups; the first pattern swaps none. And whether these are all
        2^(G-1) patterns that do not swap the last group.
    """
    if num_groups <= _EXACT_GROUPS:
        numbers = np.arange(2 ** (num_groups - 1))
        swapped = (numbers[:, None] >> np.arange(num_groups)) & 1
        return np.where(swapped == 1, -1.0, 1.0), True
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(_NUM_SWAPS + 1, num_groups))
    signs[0] = 1.0
    return signs, False
