"""The t interval of a mean over groups: closed forms, coverage, and samples that are too small."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.intervals import Interval, mean_interval, t_quantile
from expunge.records import Value


def covers(interval, truth):
    return interval.low <= truth <= interval.high


def test_five_group_means_closed_form():
    """Group means 1, 2, 3, 4, 5: mean 3, variance 2.5, standard error sqrt(2.5 / 5); t(.975, 4) = 2.776445."""
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 4) + np.tile([-0.5, 0.5], 10)
    interval = mean_interval(values, np.repeat(list("abcde"), 4).tolist())
    half_width = 2.7764451051977987 * math.sqrt(0.5)
    assert (interval.low, interval.high) == (pytest.approx(3 - half_width), pytest.approx(3 + half_width))
    assert interval.how == "95% t interval of the mean, 5 groups"


def test_two_degrees_of_freedom_closed_form():
    """With 2 degrees of freedom the quantile is (2p - 1) / sqrt(2 p (1 - p)), here .95 / sqrt(2 * .975 * .025)."""
    assert t_quantile(2, 0.95) == pytest.approx(0.95 / math.sqrt(2 * 0.975 * 0.025), rel=1e-12)


@pytest.mark.parametrize("num_groups", [0, 1, 4])
def test_fewer_than_five_groups_have_no_interval_but_a_reason(num_groups):
    values = np.linspace(0, 1, 10 * num_groups)
    interval = mean_interval(values, np.repeat(np.arange(num_groups), 10).tolist()) if num_groups else None
    interval = interval or mean_interval([], [])
    assert (interval.low, interval.high) == (None, None)
    assert interval.reason.startswith(f"{num_groups} group")
    assert "at least 5" in interval.reason


def test_a_value_carries_the_interval_or_the_reason():
    value = Value(point=0.5, n=2, how="mean of x")
    assert Interval(0.4, 0.6, "t interval, 9 groups").attach(value) == value.model_copy(
        update={"low": 0.4, "high": 0.6, "how": "mean of x; t interval, 9 groups"}
    )
    without = mean_interval([0.0, 1.0], ["a", "b"]).attach(value)
    assert without.how == "mean of x; no interval: 2 groups of rows, at least 5 are needed"
    assert without.no_interval == "2 groups of rows, at least 5 are needed"
    assert Interval.missing().attach(value).how == "mean of x; no interval"


def test_equal_values_give_an_interval_of_zero_width_and_say_so():
    interval = mean_interval([0.5] * 10, list(range(10)))
    assert (interval.low, interval.high) == (0.5, 0.5)
    assert "with equal means" in interval.how


def test_rows_of_a_group_count_as_one():
    """If all rows of an author are equal, 20 authors of 20 rows have 20 independent values, not 400.

    The standard error of the mean is then sqrt(400 / 20) times that of independent rows, up to n - 1 in place of n and
    the t quantiles: sqrt(399 / 19) * t(19) / t(399).
    """
    values = np.repeat(np.random.default_rng(0).normal(size=20), 20)
    grouped = mean_interval(values, np.repeat(np.arange(20), 20).tolist())
    single = mean_interval(values, list(range(400)))
    expected = math.sqrt(399 / 19) * t_quantile(19, 0.95) / t_quantile(399, 0.95)
    assert (grouped.high - grouped.low) / (single.high - single.low) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", [[10] * 5, [10] * 20, [1, 2, 4, 8, 16, 32, 64]])
def test_coverage_of_a_95_percent_interval(sizes):
    """1000 experiments of correlated rows with mean 0; 3.5 binomial standard errors are .024.

    Percentile intervals of five groups cover about .85, and t with G - 1 degrees of freedom and groups of very unequal
    size about .85 too.
    """
    rng = np.random.default_rng(1)
    groups, covered = np.repeat(np.arange(len(sizes)), sizes), 0
    for _ in range(1000):
        values = rng.normal(size=len(sizes))[groups] + 2 * rng.normal(size=len(groups))
        covered += covers(mean_interval(values, groups.tolist()), 0)
    assert 926 <= covered <= 990


def test_invalid_level_is_rejected():
    with pytest.raises(ValueError, match="level"):
        mean_interval(range(6), range(6), level=95)
