"""Bootstrap and Wilson intervals: closed forms, coverage, reproducibility and invalid input."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics import intervals
from expunge.metrics.intervals import cluster_bootstrap, mean_interval, weighted_mean, wilson


def test_weighted_mean_ignores_missing_rows():
    """Counts 2, 1, 0 of the values 1, NaN, 5: only 1 counts, twice."""
    weights = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(weighted_mean([1.0, np.nan, 5.0], weights), [1.0, 3.0])


def test_equal_values_give_an_interval_of_zero_width():
    assert mean_interval([0.5] * 10, list(range(10)), resamples=50, seed=0) == (0.5, 0.5)


def test_two_groups_have_only_three_means():
    """Groups of means 0 and 1: the resamples are 00, 01/10 and 11, so 95% of them span 0 to 1."""
    assert mean_interval([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"], resamples=500, seed=0) == (0.0, 1.0)


def test_rows_of_a_group_are_resampled_together():
    """If all rows of an author are equal, 20 authors of 20 rows have 20 independent values, not 400.

    The standard error of the mean is then sqrt(20) times that of independent rows.
    """
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 20)
    low, high = mean_interval(values, np.repeat(np.arange(20), 20).tolist(), resamples=2000, seed=0)
    low_rows, high_rows = mean_interval(values, list(range(400)), resamples=2000, seed=0)
    assert (high - low) / (high_rows - low_rows) == pytest.approx(np.sqrt(20), rel=0.1)


def test_coverage_of_a_95_percent_interval():
    """200 experiments of 40 groups of 5 correlated rows with mean 0; the coverage is slightly below 95%."""
    rng = np.random.default_rng(1)
    groups, covered = np.repeat(np.arange(40), 5).tolist(), 0
    for experiment in range(200):
        values = np.repeat(rng.normal(size=40), 5) + rng.normal(size=200)
        low, high = mean_interval(values, groups, resamples=200, seed=experiment)
        covered += low <= 0 <= high
    assert 178 <= covered <= 198


def test_several_samples_are_resampled_independently():
    """The difference of two samples with the same rows varies; resampled together it would always be 0."""
    values = np.arange(10.0)

    def difference(first, second):
        return weighted_mean(values, first) - weighted_mean(values, second)

    low, high = cluster_bootstrap(difference, [list(range(10))] * 2, resamples=200, seed=0)
    assert low < -1
    assert high > 1


def test_interval_depends_on_the_seed_and_not_on_the_chunk_size(monkeypatch):
    values, groups = np.random.default_rng(2).normal(size=60), [i // 3 for i in range(60)]
    first = mean_interval(values, groups, resamples=300, seed=7)
    assert first == mean_interval(values, groups, resamples=300, seed=7)
    assert first != mean_interval(values, groups, resamples=300, seed=8)
    monkeypatch.setattr(intervals, "_CHUNK_ELEMENTS", 60 * 7)
    assert mean_interval(values, groups, resamples=300, seed=7) == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize(("groups", "resamples"), [(["a", "a", "a"], 100), (["a", "b", "c"], 0), ([], 100)])
def test_no_groups_or_no_resamples_give_no_interval(groups, resamples):
    assert mean_interval([1.0] * len(groups), groups, resamples=resamples, seed=0) is None


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0, 2.0], [0, 1], resamples=10, seed=0, level=95)
    with pytest.raises(TypeError, match="wrap"):
        cluster_bootstrap(lambda w: w.sum(axis=1), ["ab", "cd"], resamples=10, seed=0)


def test_wilson_solves_its_defining_equation():
    """The ends are the proportions q with |p - q| = z sqrt(q (1 - q) / n)."""
    for successes, trials in [(1, 10), (24, 400), (399, 400)]:
        for end in wilson(successes, trials):
            distance = abs(successes / trials - end)
            assert distance == pytest.approx(1.959963984540054 * (end * (1 - end) / trials) ** 0.5, rel=1e-9)


def test_wilson_of_no_and_of_only_successes():
    """k = 0 of n: the upper end is z^2 / (n + z^2), here 3.8415 / 13.8415."""
    low, high = wilson(0, 10)
    assert low == 0.0
    assert high == pytest.approx(0.27753, abs=1e-5)
    assert wilson(10, 10) == (pytest.approx(1 - high), 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_rejected(successes, trials):
    with pytest.raises(ValueError, match="wilson"):
        wilson(successes, trials)
