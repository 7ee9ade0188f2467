"""Membership scores: closed forms, plain loops and a synthetic memorised set."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from expunge.metrics.membership import (
    membership_gradient_norm,
    membership_loss,
    membership_min_k,
    membership_min_k_plus,
    membership_reference,
    membership_zlib,
)
from expunge.metrics.separation import membership_auc


def _rows(rng, num):
    lengths = rng.integers(1, 30, num)
    return (
        [-rng.gamma(2, 1, n) for n in lengths],
        [-rng.gamma(2, 1, n) for n in lengths],
        [rng.gamma(1, 1, n) for n in lengths],
    )


def test_min_k_uses_the_least_likely_tokens():
    """40% of five tokens are two: the lowest are -4 and -3, so the score is 3.5."""
    assert membership_min_k([[-1.0, -4.0, -0.5, -3.0, -2.0]])[0] == 3.5


def test_min_k_uses_at_least_one_token_and_at_most_all():
    """floor(0.4 * 2) = 0 becomes 1; with k = 1 the score is the mean negative log-probability."""
    np.testing.assert_array_equal(membership_min_k([[-1.0, -2.0], [-3.0]]), [2.0, 3.0])
    assert membership_min_k([[-1.0, -2.0, -6.0]], k=1.0)[0] == 3.0


def test_min_k_plus_standardises_by_the_predicted_distribution():
    """(-3 - -1) / sqrt(4) = -1 and (-1 - -1) / sqrt(1) = 0: the lower of the two gives 1."""
    assert membership_min_k_plus([[-3.0, -1.0]], [[-1.0, -1.0]], [[4.0, 1.0]])[0] == 1.0


def test_min_k_plus_of_a_certain_model_stays_finite():
    """Variance 0 counts as 1e-6: (-0.001 - 0) / 0.001 = -1."""
    assert membership_min_k_plus([[-0.001]], [[0.0]], [[0.0]])[0] == pytest.approx(1.0, rel=1e-12)
    assert membership_min_k_plus([[-0.001]], [[0.0]], [[-1e-9]])[0] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("k", [0.05, 0.2, 0.4, 1.0])
def test_per_token_scores_equal_plain_loops(k):
    """Independent recomputation: average the max(1, int(k n)) lowest values, one row at a time."""
    rows = _rows(np.random.default_rng(0), 200)
    plain, plus = membership_min_k(rows[0], k), membership_min_k_plus(*rows, k)
    for i, (logp, mean, variance) in enumerate(zip(*rows, strict=True)):
        count = max(1, int(k * len(logp)))
        lowest = sorted(float(value) for value in logp)[:count]
        assert plain[i] == pytest.approx(-math.fsum(lowest) / count, abs=1e-10)
        spread = [math.sqrt(max(float(v), 1e-6)) for v in variance]
        z = sorted((float(a) - float(m)) / s for a, m, s in zip(logp, mean, spread, strict=True))[:count]
        assert plus[i] == pytest.approx(-math.fsum(z) / count, rel=1e-10)


def test_order_of_tokens_does_not_matter():
    logp, mean, variance = _rows(np.random.default_rng(1), 20)
    reversed_rows = [[row[::-1] for row in rows] for rows in (logp, mean, variance)]
    np.testing.assert_allclose(membership_min_k(reversed_rows[0]), membership_min_k(logp), rtol=1e-13)
    np.testing.assert_allclose(
        membership_min_k_plus(*reversed_rows), membership_min_k_plus(logp, mean, variance), rtol=1e-13
    )


def test_rows_without_tokens_have_no_score():
    assert np.isnan(membership_min_k([[]])[0])
    assert np.isnan(membership_min_k_plus([[]], [[]], [[]])[0])


def test_scores_from_mean_losses_equal_plain_loops():
    rng = np.random.default_rng(2)
    nll, retain_nll = rng.gamma(2, 1, 50), rng.gamma(2, 1, 50)
    texts = ["äé" * int(n) + "end" for n in rng.integers(0, 40, 50)]
    np.testing.assert_array_equal(membership_loss(nll), nll)
    for i in range(50):
        size = len(zlib.compress(bytes(texts[i], "utf-8")))
        assert membership_zlib(nll, texts)[i] == pytest.approx(float(nll[i]) / size, abs=1e-12)
        expected = float(nll[i]) - float(retain_nll[i])
        assert membership_reference(nll, retain_nll)[i] == pytest.approx(expected, abs=1e-12)


def test_zlib_compensates_for_repetitive_texts():
    """At the same loss, the repetitive text looks newer than the varied one."""
    repetitive, varied = "ha" * 100, "".join(chr(97 + (i * i * 7 + i // 3) % 26) for i in range(200))
    scores = membership_zlib([1.0, 1.0], [repetitive, varied])
    assert scores[0] > scores[1]


def test_every_score_is_low_on_memorised_texts():
    """Synthetic forget tokens have probability about 0.9, holdout tokens about 0.2."""
    rng = np.random.default_rng(3)
    scores = {}
    for name, probability in (("forget", 0.9), ("holdout", 0.2)):
        logp = [np.log(np.clip(rng.normal(probability, 0.05, 20), 0.01, 0.99)) for _ in range(30)]
        nll = [-row.mean() for row in logp]
        # The predicted mean is -0.5 and the variance 1/4 for every token; the retain model has a loss of 1.6 on both.
        scores[name] = {
            "loss": membership_loss(nll),
            "zlib": membership_zlib(nll, ["the same text"] * 30),
            "reference": membership_reference(nll, [1.6] * 30),
            "min_k": membership_min_k(logp),
            "min_k_plus": membership_min_k_plus(logp, [[-0.5] * 20] * 30, [[0.25] * 20] * 30),
            "gradient_norm": membership_gradient_norm(nll),
        }
    for score, values in scores["forget"].items():
        assert membership_auc(values, scores["holdout"][score]) == 1.0, score


def test_invalid_arguments_are_rejected():
    for k in (0.0, 1.5, 40):
        with pytest.raises(ValueError, match="share"):
            membership_min_k([[-1.0]], k)
    with pytest.raises(ValueError, match="differ in shape"):
        membership_min_k_plus([[-1.0, -2.0]], [[-1.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"zip|argument"):
        membership_min_k_plus([[-1.0]], [], [])
    with pytest.raises(ValueError, match="as many"):
        membership_zlib([1.0, 2.0], ["one"])
    with pytest.raises(ValueError, match="as many"):
        membership_reference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="negative"):
        membership_gradient_norm([-1.0])
    with pytest.raises(ValueError, match="shape"):
        membership_loss([[1.0]])
