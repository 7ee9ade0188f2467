"""Groups of dependent rows: their sizes, and how many degrees of freedom they leave for a variance."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_GROUPS = 5
"""Fewest groups with an interval. With fewer, the spread between groups is mostly chance."""


@dataclass(frozen=True)
class Grouping:
    """The groups of the rows of one sample."""

    codes: NDArray[np.int64]
    """Number of the group of each row, shape (n,)."""
    sizes: Floats
    """Number of rows of each group, shape (G,)."""

    @classmethod
    def of(cls, groups: Sequence[Hashable]) -> Grouping:
        """Number the groups in the order in which they first occur."""
        numbers: dict[Hashable, int] = {}
        codes = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
        return cls(codes, np.bincount(codes, minlength=len(numbers)).astype(np.float64))

    @property
    def num_rows(self) -> int:
        """Number of rows, n."""
        return len(self.codes)

    @property
    def num_groups(self) -> int:
        """Number of groups, G."""
        return len(self.sizes)

    @functools.cached_property
    def shares(self) -> Floats:
        """Share of the rows in each group, h_g = n_g / n."""
        return self.sizes / self.num_rows

    @functools.cached_property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the cluster-robust variance of a mean; G - 1 for groups of equal size.

        Formula: 1 / nu = sum_g h_g^2 + (sum_g u_g)^2 - sum_g u_g^2, with u_g = h_g^2 / (1 - h_g).

        Derivation: the variance estimate is V = sum_g T_g^2 with T_g = S_g / (n sqrt(1 - h_g)), where S_g is the sum of
        y - mean(y) over group g. For independent rows of unit variance, cov(S_g, S_k) = d_gk n_g - n_g n_k / n (d_gk is
        1 for g = k, else 0). The covariance matrix M of the T_g then has M_gg = h_g / n and
        M_gk^2 = u_g u_k / n^2 for g != k, so tr M = 1 / n. A chi-squared variable scaled to the mean and variance of V
        has nu = (tr M)^2 / tr M^2 degrees of freedom (Satterthwaite). One group with most of the rows brings nu near
        1, however many small groups there are.

        References:
            Bell and McCaffrey 2002, Survey Methodology 28(2), 169-181; Imbens and Kolesar 2016,
            doi:10.1162/REST_a_00552.
        """
        squared = self.shares**2
        ratios = squared / (1 - self.shares)
        return float(1 / (squared.sum() + ratios.sum() ** 2 - (ratios**2).sum()))

    def sums(self, values: Floats) -> Floats:
        """Return the sum of a value per row over each group, shape (G,)."""
        return np.bincount(self.codes, weights=values, minlength=self.num_groups).astype(np.float64)

    def variance_of_mean(self, values: Floats) -> float:
        """Compute the cluster-robust variance of the mean of rows.

        Formula: V = sum_g S_g^2 / (n^2 (1 - h_g)), with S_g the sum of y - mean(y) over group g.

        For independent rows, E S_g^2 = n_g (1 - h_g) var(y), so the factor 1 / (1 - h_g) makes V unbiased. For groups
        of equal size V is the variance of the G group means divided by G.

        References:
            Bell and McCaffrey 2002, Survey Methodology 28(2), 169-181 (CR2, here of a regression on a constant).
        """
        sums = self.sums(values - values.mean())
        return float((sums**2 / (1 - self.shares)).sum() / self.num_rows**2)


def too_few_groups(groupings: Sequence[Grouping]) -> str:
    """Return why there is no interval if a sample has too few groups; empty if all samples have enough."""
    fewest = min(grouping.num_groups for grouping in groupings)
    if fewest >= MIN_GROUPS:
        return ""
    return f"{fewest} group{'' if fewest == 1 else 's'} of rows, at least {MIN_GROUPS} are needed"


def count_groups(groupings: Sequence[Grouping]) -> str:
    """Return the numbers of groups of all samples in words, such as '20 and 100 groups'."""
    return " and ".join(str(grouping.num_groups) for grouping in groupings) + " groups"
