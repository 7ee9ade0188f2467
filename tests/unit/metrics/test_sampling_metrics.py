"""leak@k, the expected maximum and the simultaneous band, by hand and by enumeration."""

from itertools import combinations

import numpy as np
import pytest

from expunge.metrics.sampling import Band, expected_maximum, leak_at, sample_counts, simultaneous_band


def test_counts_are_powers_of_two_and_the_number_itself():
    assert sample_counts(64) == [1, 2, 4, 8, 16, 32, 64]
    assert sample_counts(5) == [1, 2, 4, 5]
    assert sample_counts(1) == [1]


def test_leak_at_by_hand():
    """n = 4, c = 1: one of C(4, 2) = 6 pairs out of two contains the leak, 3 of 6; k = 4 always does."""
    assert leak_at(4, 1, 1) == 0.25
    assert leak_at(4, 1, 2) == 0.5
    assert leak_at(4, 1, 4) == 1.0
    assert leak_at(4, 3, 2) == 1.0  # two answers without a leak do not exist
    assert leak_at(64, 0, 64) == 0.0


def test_leak_at_is_unbiased():
    """Mean over c ~ Binomial(n, p) is 1 - (1 - p)^k."""
    from scipy.stats import binom

    n, p, k = 10, 0.3, 4
    mean = sum(binom.pmf(c, n, p) * leak_at(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - 0.7**4, abs=1e-12)


@pytest.mark.parametrize("wrong", [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_leak_at_rejects_impossible_numbers(wrong):
    with pytest.raises(ValueError, match="leak_at needs"):
        leak_at(*wrong)


def test_expected_maximum_is_the_mean_over_all_subsets():
    scores = [0.2, 0.9, 0.0, 0.5, 0.5]
    for k in range(1, 6):
        expected = np.mean([max(subset) for subset in combinations(scores, k)])
        assert expected_maximum(scores, k) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="k=6 and n=5"):
        expected_maximum(scores, 6)


def test_expected_maximum_of_outcomes_is_leak_at():
    outcomes = [1] * 3 + [0] * 61
    for k in sample_counts(64):
        assert expected_maximum(outcomes, k) == pytest.approx(leak_at(64, 3, k), abs=1e-12)


def test_a_band_of_one_column_and_its_copy_are_equal():
    """A copied column changes no maximum, so the band is not widened for it; another column widens it."""
    rng = np.random.default_rng(0)
    groups = [f"{i // 5}" for i in range(100)]
    column, other = rng.normal(0.3, 1, 100), rng.normal(0, 1, 100)
    one = simultaneous_band(column[:, None], groups, 500, 0)
    two = simultaneous_band(np.stack([column, column], 1), groups, 500, 0)
    wide = simultaneous_band(np.stack([column, other], 1), groups, 500, 0)
    assert one.low[0] == pytest.approx(two.low[0]) == pytest.approx(two.low[1])
    assert wide.low[0] < one.low[0] < column.mean() < one.high[0] < wide.high[0]


def test_the_band_covers_all_columns_at_the_same_time():
    """100 experiments of 20 groups and 6 columns: coverage of all together, which pointwise intervals miss."""
    rng = np.random.default_rng(1)
    covered = pointwise = 0
    for _ in range(100):
        person = rng.normal(size=(20, 1)) * 0.3 + rng.normal(size=(20, 6))
        values = np.repeat(person, 3, axis=0) + rng.normal(size=(60, 6))
        groups = np.repeat(np.arange(20), 3).tolist()
        band = simultaneous_band(values, groups, 200, 0)
        covered += bool(((band.low <= 0) & (band.high >= 0)).all())
        single = [simultaneous_band(values[:, [k]], groups, 200, 0) for k in range(6)]
        pointwise += all(each.low[0] <= 0 <= each.high[0] for each in single)
    assert covered >= 88
    assert pointwise < covered


def test_p_values_agree_with_the_band():
    rng = np.random.default_rng(2)
    values = np.stack([rng.normal(shift, 1, 60) for shift in (0.0, 0.3, 2.0)], 1)
    band = simultaneous_band(values, np.repeat(np.arange(20), 3).tolist(), 999, 0)
    excludes = (band.low > 0) | (band.high < 0)
    assert ((band.p_values < 0.05) == excludes).all()
    assert band.p_values[2] == 0.001  # no resample reaches it: 1 / (1 + 999)


def test_columns_that_do_not_vary():
    groups = np.repeat(np.arange(6), 2).tolist()
    assert simultaneous_band(np.zeros((12, 2)), groups, 50, 0) == "the difference is the same in every group"
    values = np.stack([np.zeros(12), np.arange(12.0)], 1)
    band = simultaneous_band(values, groups, 50, 0)
    assert isinstance(band, Band)
    assert (band.low[0], band.high[0], band.p_values[0]) == (0, 0, 1)
    assert "at least 5" in simultaneous_band(np.zeros((8, 1)), np.repeat(np.arange(4), 2).tolist(), 50, 0)
