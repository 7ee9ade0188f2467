"""Groups of rows: degrees of freedom and the cluster-robust variance of a mean."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics.groups import Grouping, count_groups, too_few_groups

UNEQUAL = [0] * 7 + [1] * 3 + [2] * 2 + [3] + [4] * 5


def test_equal_groups_have_one_degree_of_freedom_fewer_than_groups():
    """h = 1/G: sum h^2 = 1/G, u = 1/(G (G - 1)), so 1/nu = 1/G + 1/(G - 1)^2 - 1/(G (G - 1)^2) = 1/(G - 1)."""
    for num_groups, size in [(2, 3), (5, 1), (20, 20)]:
        grouping = Grouping.of(np.repeat(np.arange(num_groups), size).tolist())
        assert grouping.degrees_of_freedom == pytest.approx(num_groups - 1, rel=1e-12)


def test_degrees_of_freedom_equal_those_of_the_covariance_matrix():
    """nu = (tr M)^2 / tr M^2, with M the covariance of S_g / (n sqrt(1 - h_g)) for independent rows, built from rows.

    S = A y with the rows of A: the indicator of group g minus n_g / n. M is A A' scaled on both sides.
    """
    grouping = Grouping.of(UNEQUAL)
    n = grouping.num_rows
    indicators = (grouping.codes == np.arange(5)[:, None]).astype(float)
    centered = indicators - indicators.sum(axis=1, keepdims=True) / n
    scaled = centered / (n * np.sqrt(1 - grouping.shares))[:, None]
    covariance = scaled @ scaled.T
    expected = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert grouping.degrees_of_freedom == pytest.approx(expected, rel=1e-12)
    assert np.trace(covariance) == pytest.approx(1 / n, rel=1e-12)


def test_one_large_group_leaves_about_one_degree_of_freedom():
    """h near 1: 1/nu is near h^2 + 0, since (sum u)^2 - sum u^2 only has products of the large u with small ones."""
    assert 1 < Grouping.of([0] * 1000 + list(range(1, 21))).degrees_of_freedom < 1.2


def test_variance_of_equal_groups_is_that_of_the_group_means():
    values = np.random.default_rng(0).normal(size=60)
    means = values.reshape(12, 5).mean(axis=1)
    grouping = Grouping.of(np.repeat(np.arange(12), 5).tolist())
    assert grouping.variance_of_mean(values) == pytest.approx(means.var(ddof=1) / 12, rel=1e-12)


def test_variance_is_unbiased_for_independent_rows_in_unequal_groups():
    """The mean of the estimates over 20000 samples of variance 1 is 1/n, within five standard errors."""
    grouping, rng = Grouping.of(UNEQUAL), np.random.default_rng(1)
    estimates = [grouping.variance_of_mean(rng.normal(size=18)) for _ in range(20000)]
    standard_error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(1 / 18, abs=5 * standard_error)


def test_too_few_groups_are_counted_in_the_smallest_sample():
    samples = [Grouping.of(range(20)), Grouping.of([0, 0, 1, 2])]
    assert too_few_groups(samples) == "3 groups of rows, at least 5 are needed"
    assert too_few_groups(samples[:1]) == ""
    assert too_few_groups([Grouping.of([])]).startswith("0 groups")
    assert count_groups(samples) == "20 and 3 groups"
