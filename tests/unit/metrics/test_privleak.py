"""PrivLeak: its sign, its two conventions, and what it asks for."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics.privleak import NEEDS_RETAIN_MODEL, privleak, privleak_value
from expunge.metrics.separation import NEEDS_HOLDOUT, Scored, membership_auc


def _scored(values, size=2):
    array = np.asarray(values, dtype=np.float64)
    return Scored(array, [i // size for i in range(len(array))])


def _sides(seed, shift, n=40):
    rng = np.random.default_rng(seed)
    return _scored(rng.normal(0, 1, n)), _scored(rng.normal(shift, 1, n))


def test_closed_forms():
    """MUSE's A is 1 - AUC: A_u = .25 against A_r = .5 is half of it, -50%; A_u = .75 is +50%."""
    assert privleak(0.75, 0.5) == pytest.approx(-50.0)
    assert privleak(0.25, 0.5) == pytest.approx(50.0)
    assert privleak(0.5, 0.5) == 0.0
    assert privleak(1.0, 0.53) == pytest.approx(-100.0)


def test_published_constant():
    """MUSE News: A_r = .4772; a model that puts every forget row below every holdout row gets -100, the reverse
    (1 - .4772) / .4772 = 109.6%."""
    assert privleak(1.0, 1 - 0.4772) == pytest.approx(-100.0)
    assert privleak(0.0, 1 - 0.4772) == pytest.approx(109.5557, abs=1e-4)


def test_openunlearning_s_form_is_the_same_number():
    """((1 - a) - (1 - r)) / (1 - r + 1e-10) * 100."""
    rng = np.random.default_rng(0)
    for auc, retain_model in rng.uniform(0.05, 0.95, (50, 2)):
        theirs = ((1 - auc) - (1 - retain_model)) / (1 - retain_model + 1e-10) * 100
        assert privleak(auc, retain_model) == pytest.approx(theirs, abs=1e-5)


def test_value_from_two_models_equals_the_formula_and_holds_its_point():
    (forget, holdout), retain_model = _sides(0, 1.5), _sides(1, 0.0)
    value = privleak_value(forget, holdout, retain_model, resamples=300, seed=0)
    aucs = membership_auc(forget.scores, holdout.scores), membership_auc(*(side.scores for side in retain_model))
    assert value.point == pytest.approx((aucs[1] - aucs[0]) / (1 - aucs[1]) * 100, abs=1e-9)
    assert value.point < -50
    assert value.low < value.point < value.high
    assert value.unit == "%"
    assert value.n == 80
    assert value == privleak_value(forget, holdout, retain_model, resamples=300, seed=0)
    assert value != privleak_value(forget, holdout, retain_model, resamples=300, seed=1)


def test_a_model_that_equals_its_retain_model_leaks_nothing_in_every_draw():
    """Rows of both models are drawn together, so the difference is 0 in each draw."""
    sides = _sides(2, 0.5)
    value = privleak_value(*sides, sides, resamples=100, seed=0)
    assert (value.point, value.low, value.high) == (0.0, 0.0, 0.0)


def test_over_unlearning_is_positive():
    """Forget rows that look newer than the holdout rows, beside a retain model that sees no difference."""
    forget, holdout = _sides(3, -1.5)
    assert privleak_value(forget, holdout, _sides(4, 0.0), resamples=0, seed=0).point > 50


def test_published_retain_model_is_taken_as_exact():
    forget, holdout = _sides(5, 1.0)
    value = privleak_value(forget, holdout, 1 - 0.4772, resamples=100, seed=0)
    assert value.point == pytest.approx(privleak(membership_auc(forget.scores, holdout.scores), 1 - 0.4772))
    assert "published" in value.how
    assert "0.4772" in value.how


def test_missing_rows_of_either_model_are_left_out_on_both_sides():
    (forget, holdout), (other, other_holdout) = _sides(6, 1.0), _sides(7, 0.2)
    ours, theirs = forget.scores.copy(), other.scores.copy()
    ours[0], theirs[5] = np.nan, np.nan
    value = privleak_value(
        Scored(ours, forget.groups), holdout, (Scored(theirs, other.groups), other_holdout), resamples=0, seed=0
    )
    kept = [i for i in range(40) if i not in (0, 5)]
    expected = privleak(
        membership_auc(forget.scores[kept], holdout.scores), membership_auc(other.scores[kept], other_holdout.scores)
    )
    assert value.point == pytest.approx(expected, abs=1e-9)
    assert (value.n, value.n_missing) == (78, 2)


def test_nothing_is_made_up():
    forget, holdout = _sides(8, 1.0)
    assert privleak_value(forget, None, 0.5, resamples=10, seed=0).needs == NEEDS_HOLDOUT
    assert privleak_value(forget, holdout, None, resamples=10, seed=0).needs == NEEDS_RETAIN_MODEL
    apart = _scored([0.0, 0.0]), _scored([1.0, 1.0])
    assert "at least one forget row" in privleak_value(*apart, apart, resamples=10, seed=0).needs
    empty = _scored([np.nan, np.nan])
    assert "under both models" in privleak_value(empty, holdout, 0.5, resamples=10, seed=0).needs


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="below 1"):
        privleak(0.5, 1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        privleak(-0.1, 0.5)
    forget, holdout = _sides(9, 1.0)
    with pytest.raises(ValueError, match="same rows"):
        privleak_value(forget, holdout, _sides(9, 1.0, n=20), resamples=0, seed=0)
