"""AUC and TPR at a low FPR: pairwise counts, ties, scikit-learn, DeLong, and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.proportions import wilson
from expunge.metrics.separation import (
    NEEDS_HOLDOUT,
    Scored,
    membership_auc,
    membership_tpr,
    resampled_auc,
    resampled_tpr,
    separation_values,
)


def _scored(values, groups=None):
    array = np.asarray(values, dtype=np.float64)
    return Scored(array, list(range(len(array))) if groups is None else groups)


def _tied(rng, n, shift=0.0):
    """Return scores with many ties."""
    return np.round(rng.normal(shift, 1, n), 1)


def test_auc_closed_forms():
    """Forget {1, 2} below holdout {3, 4}: 1. Reversed: 0. All equal: 1/2. {1, 3} against {2}: 1 pair of 2."""
    assert membership_auc([1, 2], [3, 4]) == 1.0
    assert membership_auc([3, 4], [1, 2]) == 0.0
    assert membership_auc([5, 5, 5], [5, 5]) == 0.5
    assert membership_auc([1, 3], [2]) == 0.5
    assert membership_auc([1, 2], [2]) == 0.75


def test_auc_equals_pairwise_counts_and_sklearn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    for n, m in [(1, 1), (7, 5), (40, 90)]:
        forget, holdout = _tied(rng, n), _tied(rng, m, 0.5)
        pairs = [1.0 if f < h else 0.5 if f == h else 0.0 for f in forget for h in holdout]
        assert membership_auc(forget, holdout) == pytest.approx(math.fsum(pairs) / (n * m), abs=1e-12)
        labels = [0] * n + [1] * m
        assert membership_auc(forget, holdout) == pytest.approx(
            roc_auc_score(labels, np.concatenate([forget, holdout])), abs=1e-12
        )


def test_auc_depends_on_the_order_only_and_is_one_minus_auc_of_swapped_sets():
    rng = np.random.default_rng(1)
    forget, holdout = _tied(rng, 30), _tied(rng, 20, 0.3)
    assert membership_auc(np.exp(forget), np.exp(holdout)) == membership_auc(forget, holdout)
    assert membership_auc(holdout, forget) == pytest.approx(1 - membership_auc(forget, holdout), abs=1e-12)


def test_tpr_closed_forms():
    """With 4 holdout rows, 1% allows no false positive: the threshold is below the lowest of them, 3.

    Two of the three forget rows are below it. 25% allows one false positive: t = 3 detects the forget row at 3 too.
    """
    forget, holdout = [1, 2, 3], [3, 4, 5, 6]
    assert membership_tpr(forget, holdout) == pytest.approx(2 / 3)
    assert membership_tpr(forget, holdout, fpr=0.25) == 1.0
    assert membership_tpr([5, 5], [5, 5]) == 0.0


def test_one_percent_of_a_hundred_rows_is_one_row():
    """Holdout 0..99: the row at 0 may be a false positive, so a forget row at 0.5 is detected and one at 1 is not."""
    assert membership_tpr([0.5, 1.0], range(100)) == 0.5
    assert membership_tpr([0.5, 1.0], range(99)) == 0.0
    # 0.29 * 100 is slightly below 29 in a double; 29 rows are still allowed.
    assert membership_tpr([28.5, 29.0], range(100), fpr=0.29) == 0.5


def test_tpr_equals_a_plain_search_over_thresholds():
    rng = np.random.default_rng(2)
    for n, m, fpr in [(20, 30, 0.1), (50, 200, 0.01), (5, 3, 0.0), (60, 40, 0.5)]:
        forget, holdout = _tied(rng, n), _tied(rng, m, 0.7)
        best = 0.0
        for threshold in {*forget.tolist(), *holdout.tolist()}:
            if sum(value <= threshold for value in holdout) / m <= fpr:
                best = max(best, sum(value <= threshold for value in forget) / n)
        assert membership_tpr(forget, holdout, fpr) == pytest.approx(best, abs=1e-12)


def test_row_counts_equal_repeated_rows():
    """A row with count k in a resample is equivalent to k copies of the row."""
    rng = np.random.default_rng(3)
    forget, holdout = _tied(rng, 12), _tied(rng, 9, 0.4)
    weights = rng.integers(0, 3, (20, 12)).astype(float) + np.eye(20, 12), rng.integers(1, 3, (20, 9)).astype(float)
    aucs, tprs = resampled_auc(forget, holdout, *weights), resampled_tpr(forget, holdout, *weights, fpr=0.2)
    for i in range(20):
        repeated = [np.repeat(scores, w[i].astype(int)) for scores, w in zip((forget, holdout), weights, strict=True)]
        assert aucs[i] == pytest.approx(membership_auc(*repeated), abs=1e-12)
        assert tprs[i] == pytest.approx(membership_tpr(*repeated, fpr=0.2), abs=1e-12)


def test_bootstrap_agrees_with_delong():
    """For single independent rows DeLong's standard error of the AUC is var(V10)/n + var(V01)/m.

    V10 is, for each forget row, the share of holdout rows above it; V01 is, for each holdout row, the share of forget
    rows below it. A normal 95% interval is 2 * 1.96 standard errors wide.
    """
    rng = np.random.default_rng(4)
    forget, holdout = rng.normal(0, 1, 150), rng.normal(0.8, 1.3, 200)
    wins = (forget[:, None] < holdout[None, :]).astype(float)
    standard_error = math.sqrt(wins.mean(axis=1).var(ddof=1) / 150 + wins.mean(axis=0).var(ddof=1) / 200)
    value = separation_values(_scored(forget), _scored(holdout), "LOSS", resamples=2000, seed=0)["auc"]
    assert value.high - value.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert value.low < value.point < value.high


def test_values_have_row_counts_and_a_description():
    rng = np.random.default_rng(5)
    forget, holdout = _scored([*rng.normal(0, 1, 40), np.nan]), _scored([*rng.normal(1, 1, 100), np.nan, np.nan])
    values = separation_values(forget, holdout, "Min-40%", resamples=200, seed=1)
    assert set(values) == {"auc", "tpr_at_1_fpr"}
    for value in values.values():
        assert value.low <= value.point <= value.high
        assert (value.n, value.n_missing) == (140, 3)
        assert "Min-40%" in value.how
        assert "40 and 100 groups" in value.how
    assert values["auc"].point == membership_auc(forget.scores[:-1], holdout.scores[:-2])
    assert values["auc"].better == "retain"
    assert values["tpr_at_1_fpr"].better == "lower"


def test_interval_depends_on_the_seed():
    rng = np.random.default_rng(6)
    sets = _scored(rng.normal(0, 1, 100)), _scored(rng.normal(0.5, 1, 120))

    def interval(seed):
        value = separation_values(*sets, "LOSS", resamples=200, seed=seed)["auc"]
        return value.low, value.high

    assert interval(0) == interval(0)
    assert interval(0) != interval(1)


def test_groups_are_resampled_together():
    """Ten equal rows per group are worth one independent row, so the interval is sqrt(10) times as wide."""
    rng = np.random.default_rng(7)
    forget, holdout = np.repeat(rng.normal(0, 1, 20), 10), np.repeat(rng.normal(0.5, 1, 20), 10)
    widths = []
    for groups in (np.repeat(np.arange(20), 10).tolist(), None):
        value = separation_values(*(_scored(scores, groups) for scores in (forget, holdout)), "LOSS", 500, 0)["auc"]
        widths.append(value.high - value.low)
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.15)


def test_few_holdout_rows_have_no_rate_of_one_percent():
    """With 99 rows no false positive is allowed, so the rate would be that at 0%, which no one asked for."""
    rng = np.random.default_rng(8)
    forget, holdout = _scored(rng.normal(0, 1, 40)), _scored(rng.normal(1, 1, 99))
    value = separation_values(forget, holdout, "LOSS", resamples=50, seed=0)["tpr_at_1_fpr"]
    assert value.point is None
    assert value.needs == "at least 100 holdout rows; with 99, 1% of them is less than one row"
    enough = _scored([*holdout.scores, 2.0])
    assert separation_values(forget, enough, "LOSS", resamples=50, seed=0)["tpr_at_1_fpr"].point is not None


def test_perfect_separation_has_an_interval_that_few_groups_can_bear():
    """AUC 1 in every resample: Wilson's interval of 6 of 6, for the set with the fewer groups."""
    forget, holdout = _scored(np.zeros(12), [i // 2 for i in range(12)]), _scored(np.ones(40))
    value = separation_values(forget, holdout, "LOSS", resamples=50, seed=0)["auc"]
    assert (value.point, value.high) == (1.0, 1.0)
    assert value.low == pytest.approx(wilson(6, 6)[0])


def test_few_groups_have_no_interval_but_a_reason():
    forget, holdout = _scored([0.0, 1.0, 2.0, 0.5], ["a", "a", "b", "b"]), _scored(np.arange(20.0))
    value = separation_values(forget, holdout, "LOSS", resamples=50, seed=0)["auc"]
    assert (value.low, value.no_interval) == (None, "2 groups of rows, at least 5 are needed")


def test_without_a_holdout_set_there_is_no_number():
    values = separation_values(_scored([1.0, 2.0]), None, "LOSS", resamples=10, seed=0)
    assert [value.point for value in values.values()] == [None, None]
    assert values["auc"].needs == NEEDS_HOLDOUT
    assert "data.holdout" in NEEDS_HOLDOUT


def test_sets_without_scores_give_no_number():
    values = separation_values(_scored([np.nan]), _scored([1.0]), "LOSS", resamples=10, seed=0)
    assert values["auc"].point is None
    assert values["auc"].n_missing == 1
    assert "LOSS" in values["auc"].needs


def test_no_resamples_give_no_interval():
    value = separation_values(_scored([1.0, 2.0]), _scored([3.0]), "LOSS", resamples=0, seed=0)["auc"]
    assert (value.point, value.low, value.high) == (1.0, None, None)
    assert "no interval" in value.how


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="forget needs"):
        membership_auc([], [1.0])
    with pytest.raises(ValueError, match="holdout contains NaN"):
        membership_auc([1.0], [np.nan])
    with pytest.raises(ValueError, match="fpr"):
        membership_tpr([1.0], [2.0], fpr=1.0)
