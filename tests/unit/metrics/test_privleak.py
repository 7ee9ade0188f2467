"""PrivLeak: sign, conventions of MUSE and OpenUnlearning, intervals and missing inputs."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics.privleak import NEEDS_RETAIN_MODEL, privleak, privleak_value
from expunge.metrics.separation import NEEDS_HOLDOUT, Scored, membership_auc


def _scored(values):
    array = np.asarray(values, dtype=np.float64)
    return Scored(array, [i // 2 for i in range(len(array))])


def _forget_and_holdout(seed, shift, n=40):
    rng = np.random.default_rng(seed)
    return _scored(rng.normal(0, 1, n)), _scored(rng.normal(shift, 1, n))


def test_closed_forms():
    """MUSE's A is 1 - AUC: A_u = .25 is half of A_r = .5, so -50%; A_u = .75 is +50%."""
    assert privleak(0.75, 0.5) == pytest.approx(-50.0)
    assert privleak(0.25, 0.5) == pytest.approx(50.0)
    assert privleak(0.5, 0.5) == 0.0
    assert privleak(1.0, 0.53) == pytest.approx(-100.0)


def test_published_constant():
    """MUSE News, A_r = .4772: -100 if every forget row scores below every holdout row, and in the reverse case
    (1 - .4772) / .4772 = 109.6%."""
    assert privleak(1.0, 1 - 0.4772) == pytest.approx(-100.0)
    assert privleak(0.0, 1 - 0.4772) == pytest.approx(109.5557, abs=1e-4)


def test_the_formula_of_openunlearning_gives_the_same_value():
    """((1 - a) - (1 - r)) / (1 - r + 1e-10) * 100."""
    rng = np.random.default_rng(0)
    for auc, retain_model in rng.uniform(0.05, 0.95, (50, 2)):
        expected = ((1 - auc) - (1 - retain_model)) / (1 - retain_model + 1e-10) * 100
        assert privleak(auc, retain_model) == pytest.approx(expected, abs=1e-5)


def test_value_from_two_models_equals_the_formula_and_has_an_interval():
    (forget, holdout), retain_model = _forget_and_holdout(0, 1.5), _forget_and_holdout(1, 0.0)
    value = privleak_value(forget, holdout, retain_model, resamples=300, seed=0)
    aucs = membership_auc(forget.scores, holdout.scores), membership_auc(*(scored.scores for scored in retain_model))
    assert value.point == pytest.approx((aucs[1] - aucs[0]) / (1 - aucs[1]) * 100, abs=1e-9)
    assert value.point < -50
    assert value.low < value.point < value.high
    assert value.unit == "%"
    assert value.n == 80
    assert value == privleak_value(forget, holdout, retain_model, resamples=300, seed=0)
    assert value != privleak_value(forget, holdout, retain_model, resamples=300, seed=1)


def test_a_model_equal_to_the_retain_model_has_zero_in_every_resample():
    """Rows of both models are resampled together, so the difference is 0 in each resample."""
    scored = _forget_and_holdout(2, 0.5)
    value = privleak_value(*scored, scored, resamples=100, seed=0)
    assert (value.point, value.low, value.high) == (0.0, 0.0, 0.0)


def test_at_minus_100_percent_there_is_no_interval():
    """Every forget row still looks more familiar: all resamples give -100%, however few they are."""
    forget, holdout = _scored(np.zeros(40)), _scored(np.ones(40))
    value = privleak_value(forget, holdout, _forget_and_holdout(1, 0.0), resamples=50, seed=0)
    assert (value.point, value.low) == (-100.0, None)
    assert "end of its range, -100" in value.no_interval


def test_few_groups_have_no_interval_but_a_reason():
    forget, holdout = _forget_and_holdout(0, 1.5, n=8)
    value = privleak_value(forget, holdout, 0.5, resamples=50, seed=0)
    assert (value.low, value.no_interval) == (None, "4 groups of rows, at least 5 are needed")


def test_over_unlearning_is_positive():
    """Forget rows look newer than holdout rows to the model, and equal to the retain model."""
    forget, holdout = _forget_and_holdout(3, -1.5)
    assert privleak_value(forget, holdout, _forget_and_holdout(4, 0.0), resamples=0, seed=0).point > 50


def test_published_auc_is_treated_as_exact():
    forget, holdout = _forget_and_holdout(5, 1.0)
    value = privleak_value(forget, holdout, 1 - 0.4772, resamples=100, seed=0)
    assert value.point == pytest.approx(privleak(membership_auc(forget.scores, holdout.scores), 1 - 0.4772))
    assert "published" in value.how
    assert "0.4772" in value.how


def test_rows_missing_under_either_model_are_excluded_under_both():
    (forget, holdout), (retain_forget, retain_holdout) = _forget_and_holdout(6, 1.0), _forget_and_holdout(7, 0.2)
    scores, retain_scores = forget.scores.copy(), retain_forget.scores.copy()
    scores[0], retain_scores[5] = np.nan, np.nan
    value = privleak_value(
        Scored(scores, forget.groups),
        holdout,
        (Scored(retain_scores, retain_forget.groups), retain_holdout),
        resamples=0,
        seed=0,
    )
    present = [i for i in range(40) if i not in (0, 5)]
    expected = privleak(
        membership_auc(forget.scores[present], holdout.scores),
        membership_auc(retain_forget.scores[present], retain_holdout.scores),
    )
    assert value.point == pytest.approx(expected, abs=1e-9)
    assert (value.n, value.n_missing) == (78, 2)


def test_missing_inputs_give_no_number():
    forget, holdout = _forget_and_holdout(8, 1.0)
    assert privleak_value(forget, None, 0.5, resamples=10, seed=0).needs == NEEDS_HOLDOUT
    assert privleak_value(forget, holdout, None, resamples=10, seed=0).needs == NEEDS_RETAIN_MODEL
    separated = _scored([0.0, 0.0]), _scored([1.0, 1.0])
    assert "at least one forget row" in privleak_value(*separated, separated, resamples=10, seed=0).needs
    empty = _scored([np.nan, np.nan])
    assert "under both models" in privleak_value(empty, holdout, 0.5, resamples=10, seed=0).needs


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="below 1"):
        privleak(0.5, 1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        privleak(-0.1, 0.5)
    forget, holdout = _forget_and_holdout(9, 1.0)
    with pytest.raises(ValueError, match="same rows"):
        privleak_value(forget, holdout, _forget_and_holdout(9, 1.0, n=20), resamples=0, seed=0)
