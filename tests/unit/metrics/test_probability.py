"""Likelihood metrics: closed forms and a recomputation by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.probability import (
    option_probability,
    probability,
    truth_probability,
    truth_ratio,
    truth_ratio_forget,
    truth_ratio_utility,
)


def test_probability_closed_form():
    """Two tokens of probability 1/2 each: mean nll = ln 2, so the length-normalised probability is 1/2."""
    assert probability([math.log(2)])[0] == pytest.approx(0.5, abs=1e-15)
    assert probability([0.0])[0] == 1.0
    assert probability([math.inf])[0] == 0.0


def test_option_probability_closed_form():
    """P = 1/2, wrong answers 1/4, 1/8 and 1/8: (1/2) / (1/2 + 1/2) = 1/2."""
    wrong = [[math.log(4), math.log(8), math.log(8)]]
    assert option_probability([math.log(2)], wrong)[0] == pytest.approx(0.5, abs=1e-15)


def test_option_probability_does_not_underflow():
    """exp(-2000) is 0 in a double, but the probability of four equally likely answers is 1/4."""
    assert option_probability([2000.0], [[2000.0] * 3])[0] == pytest.approx(0.25)
    assert option_probability([5000.0], [[1.0] * 3])[0] == 0.0
    assert option_probability([math.inf], [[1.0]])[0] == 0.0


def test_truth_ratio_closed_form():
    """Paraphrase P = 1/2; wrong answers 1/4 and 1/16: geometric mean 1/8, arithmetic mean 5/32.

    R_geometric = (1/8) / (1/2) = 1/4 and R_arithmetic = (5/32) / (1/2) = 5/16.
    """
    right, wrong = [math.log(2)], [[math.log(4), math.log(16)]]
    assert truth_ratio(right, wrong)[0] == pytest.approx(1 / 4, abs=1e-15)
    assert truth_ratio(right, wrong, "arithmetic")[0] == pytest.approx(5 / 16, abs=1e-15)


def test_truth_probability_closed_form():
    """P = 1/2, geometric mean of the wrong answers 1/8: (1/2) / (1/2 + 1/8) = 4/5."""
    ratio = truth_ratio([math.log(2)], [[math.log(4), math.log(16)]])
    assert truth_probability(ratio)[0] == pytest.approx(4 / 5, abs=1e-15)
    np.testing.assert_array_equal(truth_probability([0.0, 1.0, math.inf]), [1.0, 0.5, 0.0])


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_truth_ratio_ignores_the_order_of_wrong_answers(mean):
    rng = np.random.default_rng(0)
    right, wrong = rng.gamma(2, 1, 50), rng.gamma(2, 1, (50, 5))
    shuffled = rng.permuted(wrong, axis=1)
    assert not np.array_equal(wrong, shuffled)
    np.testing.assert_allclose(truth_ratio(right, wrong, mean), truth_ratio(right, shuffled, mean), rtol=1e-13)


def test_geometric_mean_never_exceeds_the_arithmetic_mean():
    rng = np.random.default_rng(1)
    right, wrong = rng.gamma(2, 1, 200), rng.gamma(2, 1, (200, 5))
    assert (truth_ratio(right, wrong) <= truth_ratio(right, wrong, "arithmetic") * (1 + 1e-12)).all()


def test_truth_ratio_forget_and_utility_closed_form():
    """R = 1/2 and R = 2: min(R, 1/R) = 1/2 for both; max(0, 1 - R) = 1/2 and 0."""
    ratio = [0.5, 2.0, 1.0, 0.0, math.inf]
    np.testing.assert_array_equal(truth_ratio_forget(ratio), [0.5, 0.5, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(truth_ratio_utility(ratio), [0.5, 0.0, 0.0, 1.0, 0.0])


def test_all_metrics_equal_a_plain_loop():
    """Independent recomputation with the math module, one row and one answer at a time."""
    rng = np.random.default_rng(2)
    right, wrong = rng.gamma(2, 1, 40), rng.gamma(2, 1, (40, 3))
    for i in range(40):
        product, total = 1.0, 0.0
        for value in wrong[i]:
            product *= math.exp(-float(value))
            total += math.exp(-float(value))
        base = math.exp(-float(right[i]))
        geometric, arithmetic = product ** (1 / 3) / base, total / 3 / base
        assert truth_ratio(right, wrong)[i] == pytest.approx(geometric, rel=1e-12)
        assert truth_ratio(right, wrong, "arithmetic")[i] == pytest.approx(arithmetic, rel=1e-12)
        assert option_probability(right, wrong)[i] == pytest.approx(base / (base + total), rel=1e-12)
        assert truth_ratio_forget([geometric])[0] == min(geometric, 1 / geometric)
        assert truth_ratio_utility([geometric])[0] == max(0.0, 1 - geometric)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probability([[1.0]]), "one value per row"),
        (lambda: option_probability([1.0], [1.0]), "shapes"),
        (lambda: truth_ratio([1.0, 2.0], [[1.0]]), "shapes"),
        (lambda: truth_ratio([1.0], np.empty((1, 0))), "at least one wrong answer"),
        (lambda: truth_ratio([1.0], [[1.0]], "harmonic"), "geometric"),
    ],
)
def test_invalid_input_is_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
