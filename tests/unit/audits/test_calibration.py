"""Thresholds from a model that never knew."""

import numpy as np
import pytest

from expunge.audits.shared.calibration import calibrated_threshold, cross_fitted_thresholds, folds_of


def test_threshold_by_hand():
    """Shares 0, .1, ..., .9: one of ten reaches .9, two reach .8."""
    shares = [i / 10 for i in range(10)]
    assert calibrated_threshold(shares, 0.1) == 0.9
    assert calibrated_threshold(shares, 0.2) == 0.8
    assert calibrated_threshold(shares, 0.05) == np.nextafter(0.9, 1)


def test_full_guesses_make_a_leak_impossible():
    assert calibrated_threshold([1.0, 1.0, 0.0], 0.05) > 1
    assert 0 < calibrated_threshold([0.0, 0.0], 0.05) < 1e-300
    with pytest.raises(ValueError, match="at least one"):
        calibrated_threshold([], 0.05)


def test_rows_of_a_group_are_in_one_fold():
    assert folds_of(["a", "a", "b", "c", "b", "d"], 3) == [0, 0, 1, 2, 1, 0]


def test_a_row_is_not_calibrated_on_its_own_group():
    """Person a reveals everything; only the others' rows set a's threshold, and a's rows set theirs."""
    shares = {"a1": 1.0, "a2": 1.0, "b1": 0.2, "b2": 0.1, "c1": None}
    groups = {row: row[0] for row in shares}
    thresholds = cross_fitted_thresholds(shares, groups, 0.0, 5)
    assert thresholds["a1"] == thresholds["a2"] == np.nextafter(0.2, 1)
    assert thresholds["b1"] > 1
    assert thresholds["c1"] > 1
    assert cross_fitted_thresholds({"a1": 0.5}, {"a1": "a"}, 0.05, 5) == {}


def test_the_level_holds_in_rows_that_were_left_out():
    """2,000 rows of 100 groups: 5% of the rows reach a threshold fitted to other groups, up to chance."""
    rng = np.random.default_rng(0)
    shares = {f"{i}": float(share) for i, share in enumerate(rng.beta(1, 4, 2000))}
    groups = {row: str(int(row) // 20) for row in shares}
    thresholds = cross_fitted_thresholds(shares, groups, 0.05, 5)
    rate = np.mean([share >= thresholds[row] for row, share in shares.items()])
    assert rate == pytest.approx(0.05, abs=0.01)
