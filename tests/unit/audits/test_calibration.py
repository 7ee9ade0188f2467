"""Thresholds from a model that never knew."""

import numpy as np
import pytest

from expunge.audits.shared.calibration import cross_fitted_thresholds


def test_a_row_is_not_calibrated_on_its_own_group():
    """Person a reveals everything; only the others' rows set a's threshold, and a's rows set theirs: full answers."""
    shares = {"a1": 1.0, "a2": 1.0, "b1": 0.2, "b2": 0.1, "c1": None}
    groups = {row: row[0] for row in shares}
    thresholds = cross_fitted_thresholds(shares, groups, 0.05, 5)
    assert thresholds["a1"] == thresholds["a2"] == pytest.approx(0.2)
    assert thresholds["a1"] > 0.2
    assert thresholds["b1"] == thresholds["c1"] == 1
    assert cross_fitted_thresholds({"a1": 0.5}, {"a1": "a"}, 0.05, 5) == {}


def test_the_level_holds_in_rows_that_were_left_out():
    """2,000 rows of 100 groups: 5% of the rows reach a threshold fitted to other groups, up to chance."""
    rng = np.random.default_rng(0)
    shares = {f"{i}": float(share) for i, share in enumerate(rng.beta(1, 4, 2000))}
    groups = {row: str(int(row) // 20) for row in shares}
    thresholds = cross_fitted_thresholds(shares, groups, 0.05, 5)
    rate = np.mean([share >= thresholds[row] for row, share in shares.items()])
    assert rate == pytest.approx(0.05, abs=0.01)
