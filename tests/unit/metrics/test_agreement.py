"""Model utility and forget quality: closed forms, invariances and independent recomputations."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from expunge.metrics.agreement import (
    forget_quality,
    ks_test,
    log_pvalue_equal_sizes,
    model_utility,
    resampled_forget_quality,
)


def distance_by_hand(first, second):
    """Return the largest distance between two empirical distribution functions over all values."""
    return max(
        abs(sum(x <= t for x in first) / len(first) - sum(x <= t for x in second) / len(second))
        for t in [*first, *second]
    )


def test_utility_closed_form():
    """Eight ones and 1/2: 9 / (8 + 2) = 0.9. The mean of nine equal scores is that score."""
    assert float(model_utility([1.0] * 8 + [0.5])) == pytest.approx(0.9, abs=1e-15)
    assert float(model_utility([0.3] * 9)) == pytest.approx(0.3, abs=1e-15)


@pytest.mark.parametrize("position", range(9))
def test_utility_is_zero_if_any_component_is_zero(position):
    components = [0.7] * 9
    components[position] = 0.0
    assert float(model_utility(components)) == 0.0


def test_utility_is_computed_per_row():
    np.testing.assert_allclose(model_utility([[0.5] * 9, [0.25] * 9]), [0.5, 0.25])


@pytest.mark.parametrize("components", [[0.5] * 8, 0.5, [0.5] * 8 + [-0.1]])
def test_invalid_components_of_utility_are_rejected(components):
    with pytest.raises(ValueError, match="model utility"):
        model_utility(components)


def test_forget_quality_of_a_model_against_itself_is_one():
    ratios = np.random.default_rng(0).lognormal(size=100)
    test = ks_test(ratios, ratios)
    assert (test.statistic, test.pvalue, test.log10_pvalue) == (0.0, 1.0, 0.0)


def test_forget_quality_does_not_change_under_inversion():
    """1/R reverses the order of both samples, which does not change the largest distance."""
    rng = np.random.default_rng(1)
    model, retain_model = rng.lognormal(size=80), rng.lognormal(0.5, size=80)
    assert forget_quality(model, retain_model) == pytest.approx(forget_quality(1 / model, 1 / retain_model), rel=1e-12)
    assert forget_quality(model, retain_model) < 0.05


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


def test_resampled_quality_equals_a_test_of_every_resample():
    """Each row is repeated by its count and passed to `ks_test`; the rows contain ties and an infinite ratio."""
    rng = np.random.default_rng(3)
    model = np.round(rng.lognormal(size=30), 1)
    retain_model = np.round(rng.lognormal(0.4, size=30), 1)
    model[0] = retain_model[1] = math.inf
    weights = rng.multinomial(30, [1 / 30] * 30, size=25).astype(float)
    weights[0] = 1.0
    expected = [
        ks_test(np.repeat(model, counts.astype(int)), np.repeat(retain_model, counts.astype(int))).pvalue
        for counts in weights
    ]
    np.testing.assert_allclose(resampled_forget_quality(model, retain_model, weights), expected, rtol=1e-9)
