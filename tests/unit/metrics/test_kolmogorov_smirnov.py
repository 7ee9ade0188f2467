"""The Kolmogorov-Smirnov test: exact p-values, the interval of the distance and the paired test."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import norm

from expunge.metrics.kolmogorov_smirnov import (
    PairedScores,
    distance_interval,
    ks_test,
    log_pvalue_at,
    log_pvalue_equal_sizes,
    paired_ks_test,
    smallest_ks_pvalue,
)

pytestmark = pytest.mark.slow


def distance_by_hand(first, second):
    """Return the largest distance between two empirical distribution functions over all values."""
    return max(
        abs(sum(x <= t for x in first) / len(first) - sum(x <= t for x in second) / len(second))
        for t in [*first, *second]
    )


def test_disjoint_samples_closed_form():
    """One sample entirely below the other has D = 1, as in only 2 of C(2n, n) orders: n = 3 gives 2/20."""
    test = ks_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert test.statistic == 1.0
    assert test.pvalue == pytest.approx(0.1, rel=1e-12)


def test_exact_pvalue_by_enumeration():
    """n = 4: among the C(8, 4) = 70 equally likely orders, count those with a distance of at least h/4."""
    orders = list(itertools.combinations(range(8), 4))
    for steps in range(5):
        extreme = sum(
            round(4 * distance_by_hand(order, [i for i in range(8) if i not in order])) >= steps for order in orders
        )
        assert math.exp(log_pvalue_equal_sizes(steps, 4)) == pytest.approx(extreme / 70, rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 40, 300, 400])
def test_exact_pvalue_equals_exact_fractions_and_scipy(size):
    """2 sum_k (-1)^(k-1) C(2n, n - kh) / C(2n, n) in exact integers; scipy agrees where p is below 1."""
    for steps in range(1, size + 1, max(1, size // 11)):
        terms = [(-1) ** k * math.comb(2 * size, size - k * steps) for k in range(1, size // steps + 1)]
        exact = float(Fraction(-2 * sum(terms), math.comb(2 * size, size)))
        assert log_pvalue_equal_sizes(steps, size) == pytest.approx(math.log(exact), rel=1e-9, abs=1e-11)
        base = np.arange(size, dtype=float)
        test = ks_test(base, base + steps - 0.5)
        if steps > 1:
            assert round(test.statistic * size) == steps
            assert test.pvalue == pytest.approx(exact, rel=1e-9)


def test_logarithm_stays_finite_where_p_underflows():
    """D = 1 with n = 1000: p = 2 / C(2000, 1000), whose logarithm follows exactly from Python's integers."""
    test = ks_test(np.arange(1000.0), np.arange(1000.0) + 5000)
    assert test.pvalue == 0.0
    exact = math.log10(2) - math.log10(math.comb(2000, 1000))
    assert test.log10_pvalue == pytest.approx(exact, rel=1e-12)


def test_logarithm_of_unequal_samples_stays_finite():
    """D = 1, n = 1000, m = 2000: the limit's leading term, 2 exp(-2 * 2000/3)."""
    test = ks_test(np.arange(1000.0), np.arange(2000.0) + 5000)
    assert test.log10_pvalue == pytest.approx((math.log(2) - 4000 / 3) / math.log(10), rel=1e-12)


def test_logarithm_equals_that_of_the_pvalue_without_underflow():
    """Unequal sizes, for which the limit's leading term is clearly different."""
    test = ks_test(np.arange(30.0), np.arange(20.0) + 12.5)
    assert test.log10_pvalue == pytest.approx(math.log10(test.pvalue), rel=1e-12)
    assert test.pvalue < 0.1


@pytest.mark.parametrize(("first", "second"), [([], [1.0]), ([1.0], [[1.0]]), ([1.0, math.nan], [1.0, 2.0])])
def test_invalid_samples_are_rejected(first, second):
    with pytest.raises(ValueError, match="the test"):
        ks_test(first, second)


def test_smallest_pvalue_of_few_rows():
    """2 / C(2n, n): 2/2, 2/6, 2/20 and 2/70."""
    smallest = [smallest_ks_pvalue(size) for size in (1, 2, 3, 4)]
    assert smallest == pytest.approx([1, 1 / 3, 1 / 10, 1 / 35], rel=1e-12)


def test_pvalue_at_a_distance_between_two_steps_is_that_of_the_next_step():
    assert log_pvalue_at(0.31, 10) == log_pvalue_equal_sizes(4, 10)
    # 0.3 * 10 is above 3 in a double for neither, but 0.7 - 0.4 is below 0.3 and 0.1 * 3 above it.
    for three_tenths in (0.3, 0.7 - 0.4, 0.1 * 3):
        assert log_pvalue_at(three_tenths, 10) == log_pvalue_equal_sizes(3, 10)
    assert log_pvalue_at(0.0, 10) == 0.0


def test_differences_equal_counts_by_hand():
    """n (F - G) at each distinct score, with repeated rows, ties between the models and an infinite score."""
    first, second = [1.0, 2.0, 2.0, math.inf], [2.0, 0.5, 3.0, math.inf]
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 3.0]])
    scores = PairedScores.of(first, second, range(4))
    for row, weight in zip(scores.difference(weights), weights, strict=True):
        expected = [
            sum(w * ((x <= t) - (y <= t)) for w, x, y in zip(weight, first, second, strict=True))
            for t in (0.5, 1.0, 2.0, 3.0, math.inf)
        ]
        assert row.tolist() == expected


def test_interval_contains_its_own_distance_and_stays_in_the_range():
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.3, 20.0):
        first, second = rng.normal(size=60), rng.normal(shift, 1, size=60)
        interval = distance_interval(PairedScores.of(first, second, np.repeat(range(12), 5).tolist()), 200, seed=0)
        assert 0 <= interval.low <= ks_test(first, second).statistic <= interval.high <= 1


def test_margin_of_equal_models_closed_form():
    """F = G in every resample, so sup |(F* - G*) - (F - G)| = 0 and the interval is [0, 0].

    With the second model one row lower everywhere (y = x - 1 for x = 1..n, one row per group), F and G differ by 1/n at
    every integer below n, and F* - G* = w_x / n there, w_x the count of row x: the largest deviation is
    max |w - 1| / n, which is 2/n, 3/n or so for n = 10.
    """
    x = np.arange(1.0, 11.0)
    same = distance_interval(PairedScores.of(x, x, range(10)), 100, seed=0)
    assert (same.low, same.high) == (0.0, 0.0)
    shifted = distance_interval(PairedScores.of(x, x - 1, range(10)), 400, seed=0)
    counts = np.random.default_rng([0, 0]).multinomial(10, np.full(10, 0.1), size=400)
    margin = np.quantile(np.abs(counts - 1).max(axis=1) / 10, 0.95)
    # t(9) / z * sqrt(10 / 9) for ten groups.
    assert shifted.high == pytest.approx(0.1 + margin * 2.2621571628 / 1.9599639845 * math.sqrt(10 / 9), rel=1e-9)
    assert shifted.low == 0.0


@pytest.mark.parametrize(("shift", "pairing"), [(0.0, 0.0), (0.0, 0.8), (0.6, 0.0), (0.6, 0.8)])
def test_coverage_of_the_distance(shift, pairing):
    """250 experiments of 20 authors of 10 rows with an intra-class correlation of .1, scores correlated by `pairing`.

    Two normal distributions that differ by a shift d have the distance 2 Phi(d / 2) - 1. The interval covers it at
    least as often as stated, because the triangle inequality is not tight. 95% percentiles of the resampled distance
    never cover a distance of 0. 3.5 binomial standard errors of 250 experiments are .048.
    """
    rng, groups, covered = np.random.default_rng(3), np.repeat(np.arange(20), 10), 0

    def scores():
        return math.sqrt(0.1) * rng.normal(size=20)[groups] + math.sqrt(0.9) * rng.normal(size=200)

    truth = 2 * norm.cdf(shift / 2) - 1
    for experiment in range(250):
        first = scores()
        second = pairing * first + math.sqrt(1 - pairing**2) * scores() + shift
        interval = distance_interval(PairedScores.of(first, second, groups.tolist()), 200, experiment)
        covered += interval.low <= truth <= interval.high
    assert covered >= 226


def test_too_few_groups_or_no_resamples_give_no_interval():
    scores = PairedScores.of(np.arange(20.0), np.arange(20.0) + 1, np.repeat(range(4), 5).tolist())
    assert distance_interval(scores, 100, seed=0).reason == "4 groups of rows, at least 5 are needed"
    assert distance_interval(scores, 0, seed=0).low is None


def test_paired_pvalue_equals_the_enumeration_of_all_swaps():
    """Each of the 2^4 swaps of four groups is carried out on the scores, and its distance computed by hand."""
    rng = np.random.default_rng(4)
    groups = np.repeat(range(4), [3, 1, 2, 4])
    for shift in (0.0, 1.0, 5.0):
        first, second = rng.normal(size=10).round(1), rng.normal(shift, 1, size=10).round(1)
        distances = []
        for swaps in itertools.product([False, True], repeat=4):
            swapped = np.array(swaps)[groups]
            distances.append(distance_by_hand(np.where(swapped, second, first), np.where(swapped, first, second)))
        observed = distance_by_hand(first, second)
        expected = np.mean([distance >= observed - 1e-12 for distance in distances])
        test = paired_ks_test(PairedScores.of(first, second, groups.tolist()), seed=0)
        assert test.pvalue == pytest.approx(expected, rel=1e-12)
        assert test.smallest_pvalue == 1 / 8
    assert test.pvalue == 1 / 8
    assert test.how == "all 8 swaps of the models in 4 groups"


def test_paired_pvalue_of_many_groups_is_sampled():
    rng = np.random.default_rng(5)
    first = rng.normal(size=100)
    scores = PairedScores.of(first, first + 3, np.repeat(range(20), 5).tolist())
    test = paired_ks_test(scores, seed=0)
    assert test.pvalue == test.smallest_pvalue == 1e-4
    assert test.how == "sampled 10000 swaps of the models in 20 groups"
    assert paired_ks_test(PairedScores.of(first, first, range(100)), seed=0).pvalue == 1.0


@pytest.mark.parametrize(("pairing", "fewest", "most"), [(0.0, 30, 90), (0.8, 0, 6)])
def test_rates_of_false_alarms(pairing, fewest, most):
    """300 pairs of equal models, 10 authors of 20 rows with an intra-class correlation of .1.

    Without a correlation of both models' scores the test for independent samples has far more false alarms than 5%,
    with a correlation of .8 almost none. The paired test has 5% in both cases (15 of 300, standard error 3.8).
    """
    rng, groups = np.random.default_rng(6), np.repeat(np.arange(10), 20)
    independent = paired = 0

    def scores():
        return math.sqrt(0.1) * rng.normal(size=10)[groups] + math.sqrt(0.9) * rng.normal(size=200)

    for experiment in range(300):
        first = scores()
        second = pairing * first + math.sqrt(1 - pairing**2) * scores()
        independent += ks_test(first, second).pvalue < 0.05
        paired += paired_ks_test(PairedScores.of(first, second, groups.tolist()), experiment).pvalue < 0.05
    assert fewest <= independent <= most
    assert 3 <= paired <= 28
