"""Swaps of two models in groups: enumeration, McNemar's test as a special case, error rates and small samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from expunge.metrics.permutation import sign_flip_pvalue, smallest_swap_pvalue, swap_patterns


def test_pvalue_equals_the_enumeration_of_all_sign_patterns():
    rng = np.random.default_rng(0)
    for num_groups in (1, 2, 5, 9):
        for _ in range(5):
            groups = rng.integers(0, num_groups, 30)
            differences = rng.integers(-1, 2, 30)
            sums = np.bincount(groups, differences, minlength=num_groups)
            flipped = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=num_groups)]
            expected = np.mean([total >= abs(sums.sum()) for total in flipped])
            assert sign_flip_pvalue(differences, groups.tolist()) == pytest.approx(expected, rel=1e-12)


def test_single_rows_give_mcnemars_exact_test():
    """With b and c discordant rows, the number of one kind is binomial(b + c, 1/2); p is twice the tail, at most 1."""
    from scipy.stats import binomtest

    for first, second, unchanged in [(10, 0, 190), (3, 9, 5), (4, 4, 0), (0, 0, 7), (300, 200, 1500)]:
        differences = [1] * first + [-1] * second + [0] * unchanged
        expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
        assert sign_flip_pvalue(differences, range(len(differences))) == pytest.approx(expected, rel=1e-9)


def test_one_large_group_closed_form():
    """d = (5, 1, 1, 1): |s.d| >= 8 only for the two patterns of equal signs, 2/16. d = (5, -1, -1, -1): |s.d| >= 2
    for all patterns, since 5 - 3 = 2."""
    assert sign_flip_pvalue([1] * 8, [0] * 5 + [1, 2, 3]) == 2 / 16
    assert sign_flip_pvalue([1] * 5 + [-1] * 3, [0] * 5 + [1, 2, 3]) == 1.0


def test_smallest_pvalue_is_reached_if_all_groups_agree():
    for num_groups in (1, 5, 12):
        assert sign_flip_pvalue([1] * num_groups, range(num_groups)) == smallest_swap_pvalue(num_groups)
    assert smallest_swap_pvalue(6) == 1 / 32


def test_rate_of_false_alarms_for_dependent_rows():
    """400 pairs of equal models, 15 authors of 10 rows with beta-distributed rates; 3.5 standard errors of 5% are 3.8%.

    McNemar's test, which treats the rows as independent, has 18% false alarms here.
    """
    rng, groups = np.random.default_rng(1), np.repeat(np.arange(15), 10)
    grouped = single = 0
    for _ in range(400):
        leaks = [rng.random(150) < rng.beta(0.4, 0.8, 15)[groups] for _ in range(2)]
        differences = leaks[0].astype(int) - leaks[1]
        grouped += sign_flip_pvalue(differences, groups.tolist()) < 0.05
        single += sign_flip_pvalue(differences, range(150)) < 0.05
    assert grouped <= 35
    assert single >= 60


def test_patterns_are_all_swaps_once_up_to_the_opposite_swap():
    signs, is_exact = swap_patterns(4, seed=0)
    assert is_exact
    assert (signs[0] == 1).all()
    both = {tuple(row) for row in np.concatenate([signs, -signs])}
    assert both == set(itertools.product([-1.0, 1.0], repeat=4))


def test_many_groups_are_sampled_with_a_seed():
    signs, is_exact = swap_patterns(14, seed=3)
    assert not is_exact
    assert signs.shape == (10000, 14)
    assert (signs[0] == 1).all()
    assert math.isclose(signs[1:].mean(), 0, abs_tol=0.02)
    np.testing.assert_array_equal(signs, swap_patterns(14, seed=3)[0])
    assert (signs != swap_patterns(14, seed=4)[0]).any()


def test_fractions_are_rejected():
    with pytest.raises(ValueError, match="integer"):
        sign_flip_pvalue([0.5], ["a"])
