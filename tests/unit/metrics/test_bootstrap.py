"""The stretched bootstrap: closed forms of the stretch, scales, several samples, reproducibility and invalid input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics import bootstrap
from expunge.metrics.bootstrap import Scale, bootstrap_values, cluster_bootstrap, stretch, weighted_mean
from expunge.metrics.groups import Grouping
from expunge.metrics.intervals import mean_interval, t_quantile
from expunge.metrics.proportions import wilson


def mean_of(values):
    return lambda weights: weighted_mean(values, weights)


def ends(interval):
    return interval.low, interval.high


def test_weighted_mean_ignores_missing_rows():
    """Counts 2, 1, 0 of the values 1, NaN, 5: only 1 counts, twice."""
    weights = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(weighted_mean([1.0, np.nan, 5.0], weights), [1.0, 3.0])


def test_stretch_of_equal_groups_closed_form():
    """t(.975, G - 1) / 1.96 * sqrt(G / (G - 1)); for five groups 2.776 / 1.960 * sqrt(1.25) = 1.584."""
    for num_groups in (5, 20):
        grouping = Grouping.of(np.repeat(np.arange(num_groups), 3).tolist())
        expected = t_quantile(num_groups - 1, 0.95) / 1.959963984540054 * math.sqrt(num_groups / (num_groups - 1))
        assert stretch(mean_of(np.arange(3.0 * num_groups)), [grouping], 0.95) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1.0957, abs=1e-4)


def test_stretch_of_two_samples_is_that_of_welchs_test():
    """The difference of two means has V_s = s_s^2 / n_s and Welch's degrees of freedom, here computed by scipy.

    c is the mean of n_s / (n_s - 1), weighted by V_s.
    """
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 6), rng.normal(0, 3, 30)

    def difference(first_weights, second_weights):
        return weighted_mean(first, first_weights) - weighted_mean(second, second_weights)

    variances = np.array([first.var(ddof=1) / 6, second.var(ddof=1) / 30])
    correction = (variances * [6 / 5, 30 / 29]).sum() / variances.sum()
    degrees = ttest_ind(first, second, equal_var=False).df
    expected = t_quantile(degrees, 0.95) / 1.959963984540054 * math.sqrt(correction)
    groupings = [Grouping.of(range(6)), Grouping.of(range(30))]
    assert stretch(difference, groupings, 0.95) == pytest.approx(expected, rel=1e-9)


def test_correction_of_unequal_groups_is_the_bias_of_resampled_variances():
    """For independent rows of variance 1 the variance of resampled means is on average (1 - sum h_g^2) / n.

    That is the variance of a mean, 1/n, divided by c = 1 / (1 - sum h_g^2). Here h = (10, 3, 2, 2, 1) / 18, so
    1 - sum h_g^2 = 206/324. A resample is a ratio, which the closed form only approximates, hence the tolerance.
    """
    sizes = np.array([10, 3, 2, 2, 1])
    grouping, rng = Grouping.of(np.repeat(np.arange(5), sizes).tolist()), np.random.default_rng(2)
    linear = []
    for _ in range(4000):
        values = rng.normal(size=18)
        linear.append((grouping.sums(values - values.mean()) ** 2).sum() / 18**2)
    assert np.mean(linear) == pytest.approx(206 / 324 / 18, rel=0.05)


def test_interval_of_a_mean_agrees_with_the_t_interval():
    """The bootstrap of a mean is stretched to the same expected width as the t interval."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 5)
    values = rng.normal(size=12)[groups] + rng.normal(size=60)
    bootstrapped = cluster_bootstrap(mean_of(values), [groups.tolist()], resamples=4000, seed=0)
    direct = mean_interval(values, groups.tolist())
    assert bootstrapped.high - bootstrapped.low == pytest.approx(direct.high - direct.low, rel=0.06)
    assert (bootstrapped.low + bootstrapped.high) / 2 == pytest.approx(values.mean())


def test_scales_closed_forms():
    """x = .5 in [0, 1]: g' = 4, so half-width .25 is one unit of log odds: ends 1/(1 + e) and e/(1 + e).

    x = 2 in [1, inf): g = log(x - 1) and g' = 1, so half-width 1 gives 1 + 1/e and 1 + e. Without bounds the ends
    are x -+ half-width. On [0, 10], x and ends scale by ten.
    """
    assert Scale(0, 1).around(0.5, 0.25) == pytest.approx((1 / (1 + math.e), math.e / (1 + math.e)))
    assert Scale(0, 10).around(5.0, 2.5) == pytest.approx((10 / (1 + math.e), 10 * math.e / (1 + math.e)))
    assert Scale(1, math.inf).around(2.0, 1.0) == pytest.approx((1 + 1 / math.e, 1 + math.e))
    assert Scale(*bootstrap.UNBOUNDED).around(2.0, 1.5) == (0.5, 3.5)


def test_interval_stays_in_the_range():
    """Nine of ten groups at 1 and one at 0, mean .9: on the linear scale the upper end would be above 1."""
    values = [1.0] * 9 + [0.0]
    low, high = ends(cluster_bootstrap(mean_of(values), [range(10)], resamples=500, seed=0, bounds=(0, 1)))
    assert 0.2 < low < 0.9 < high < 1
    assert cluster_bootstrap(mean_of(values), [range(10)], resamples=500, seed=0).high > 1
    assert Scale(0, 1).around(0.999999, 0.5) == pytest.approx((0, 1))


def test_at_the_end_of_the_range_a_group_counts_as_one_row():
    """All of 20 groups at 1: Wilson's interval of 20 of 20; resamples alone would give [1, 1]."""
    groups = np.repeat(np.arange(20), 5).tolist()
    interval = cluster_bootstrap(mean_of([1.0] * 100), [groups, range(50)][:1], resamples=50, seed=0, bounds=(0, 1))
    assert ends(interval) == pytest.approx(wilson(20, 20))
    assert "end of the range" not in interval.how
    assert "end of its range" in interval.how


def test_at_the_end_of_an_unlimited_range_there_is_no_interval():
    interval = cluster_bootstrap(mean_of([0.0] * 10), [range(10)], resamples=50, seed=0, bounds=(0, math.inf))
    assert interval.low is None
    assert "end of its range" in interval.reason


def test_statistics_that_are_not_finite_have_no_interval():
    interval = cluster_bootstrap(lambda weights: np.full(len(weights), np.inf), [range(10)], resamples=50, seed=0)
    assert interval.reason == "the value is not finite"

    def infinite_in_some_resamples(weights):
        return np.where(weights[:, 0] > 1, np.inf, 1.0)

    interval = cluster_bootstrap(infinite_in_some_resamples, [range(10)], resamples=50, seed=0)
    assert interval.reason == "the value is not finite in every resample"


def test_resamples_without_a_value_are_left_out():
    values = np.arange(10.0)

    def undefined_in_some_resamples(weights):
        return np.where(weights[:, 0] > 2, np.nan, weighted_mean(values, weights))

    interval = cluster_bootstrap(undefined_in_some_resamples, [range(10)], resamples=200, seed=0)
    assert interval.low < 4.5 < interval.high


def test_several_samples_are_resampled_independently():
    """The difference of two samples with the same rows varies; resampled together it would always be 0."""
    values = np.arange(10.0)

    def difference(first, second):
        return weighted_mean(values, first) - weighted_mean(values, second)

    interval = cluster_bootstrap(difference, [list(range(10))] * 2, resamples=200, seed=0)
    assert interval.low < -1
    assert interval.high > 1
    assert "10 and 10 groups" in interval.how


@pytest.mark.parametrize("size", [5, 20])
def test_coverage_of_a_ratio(size):
    """500 experiments of exp(sum x / sum y) with correlated rows; 3.5 binomial standard errors are .034.

    Percentile intervals of five groups cover about .83.
    """
    rng, covered = np.random.default_rng(4), 0
    groups = np.repeat(np.arange(size), 6)
    for experiment in range(500):
        denominators = rng.uniform(1, 3, len(groups))
        ratios = 1 + 0.3 * rng.normal(size=size)[groups] + 0.5 * rng.normal(size=len(groups))
        numerators = ratios * denominators

        def statistic(weights, numerators=numerators, denominators=denominators):
            return np.exp((weights @ numerators) / (weights @ denominators))

        interval = cluster_bootstrap(statistic, [groups.tolist()], 200, experiment, bounds=(0, math.inf))
        covered += interval.low <= math.e <= interval.high
    assert 455 <= covered <= 493


def test_interval_depends_on_the_seed_and_not_on_the_chunk_size(monkeypatch):
    values, groups = np.random.default_rng(2).normal(size=60), [i // 3 for i in range(60)]

    def interval(seed):
        return cluster_bootstrap(mean_of(values), [groups], resamples=300, seed=seed)

    first = interval(7)
    assert first == interval(7)
    assert first != interval(8)
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 60 * 7)
    assert ends(interval(7)) == pytest.approx(ends(first), rel=1e-12)


def test_jackknife_does_not_depend_on_the_chunk_size(monkeypatch):
    values = np.random.default_rng(5).normal(size=30)
    groupings = [Grouping.of(range(30)), Grouping.of([i // 2 for i in range(30)])]

    def product(first, second):
        return weighted_mean(values, first) * weighted_mean(values, second)

    expected = stretch(product, groupings, 0.95)
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 60 * 4)
    assert stretch(product, groupings, 0.95) == pytest.approx(expected, rel=1e-12)


def test_resamples_count_whole_groups():
    grouping = Grouping.of(["a", "a", "b", "c", "c", "c"])
    counts = bootstrap_values(lambda weights: weights, [grouping], 50, seed=0)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()


@pytest.mark.parametrize(("groups", "resamples", "reason"), [(range(4), 100, "4 groups"), (range(9), 0, "")])
def test_too_few_groups_or_no_resamples_give_no_interval(groups, resamples, reason):
    interval = cluster_bootstrap(mean_of(np.arange(len(groups))), [groups], resamples=resamples, seed=0)
    assert (interval.low, interval.high) == (None, None)
    assert interval.reason.startswith(reason)


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="level"):
        cluster_bootstrap(mean_of([1.0, 2.0]), [[0, 1]], resamples=10, seed=0, level=95)
    with pytest.raises(TypeError, match="wrap"):
        cluster_bootstrap(mean_of([1.0, 2.0]), ["ab", "cd"], resamples=10, seed=0)
