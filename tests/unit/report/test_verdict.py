from __future__ import annotations

import pytest
from report_runs import number, quality, result

from expunge.records import Value
from expunge.report.verdict import critical_distance, ks_p_value, make_verdict, rules

TARGET = result("target", quality(1e-20), number(0.60), 0.95)
REFERENCE = result("retain", None, number(0.60), 0.15)


def unlearned(fq: float, mu: float = 0.58, probability: float = 0.15, n: int = 400, half: float = 0.01):
    return result("unlearned", quality(fq, n=n), number(mu, half), probability)


def test_a_ks_p_value_by_hand() -> None:
    """Two samples of 2: D = 1 needs both rows of one below both of the other, 2 of C(4,2) = 6 orders.

    D >= 1/2 is certain. Two samples of 3: D = 1 in 2 of 20 orders, D >= 2/3 in 2 * C(6,1) = 12 of 20.
    """
    assert ks_p_value(2, 2) == pytest.approx(2 / 6)
    assert ks_p_value(1, 2) == 1
    assert ks_p_value(3, 3) == pytest.approx(2 / 20)
    assert ks_p_value(2, 3) == pytest.approx(12 / 20)


def test_ks_p_value_agrees_with_published_logs_and_scipy() -> None:
    """TOFU's full against retain90 logs: n = 300, D = 119/300 gives p = 1.834066e-21; D = .03 gives .9993."""
    from scipy.stats import ks_2samp

    assert ks_p_value(119, 300) == pytest.approx(1.834066e-21, rel=1e-6)
    assert ks_p_value(9, 300) == pytest.approx(0.9993, abs=1e-4)
    left, right = list(range(40)), [value + 8.5 for value in range(40)]
    test = ks_2samp(left, right, method="exact")
    assert ks_p_value(round(test.statistic * 40), 40) == pytest.approx(test.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [4, 40, 200, 400])
def test_critical_distance_is_the_smallest_that_rejects(n: int) -> None:
    distance = critical_distance(n)
    assert distance is not None
    steps = round(distance * n)
    assert ks_p_value(steps, n) <= 0.05 < ks_p_value(steps - 1, n)


def test_three_questions_can_show_nothing() -> None:
    """The smallest p with 3 rows is 2 / C(6,3) = 0.1."""
    assert critical_distance(3) is None


def test_forgotten_and_kept() -> None:
    verdict = make_verdict(TARGET, unlearned(0.47), REFERENCE)
    assert (verdict.forgot, verdict.kept) == (True, True)
    assert verdict.sentence.startswith("Forgotten as far as this test can see, utility kept: forget quality 0.47")
    assert "on 400 questions" in verdict.sentence
    assert any("D = 0.0975" in reason for reason in verdict.reasons)
    assert any("D = 0.100" in reason for reason in verdict.reasons)


def test_the_threshold_itself_is_not_forgotten_and_can_be_set() -> None:
    assert make_verdict(TARGET, unlearned(0.05), REFERENCE).forgot is False
    assert make_verdict(TARGET, unlearned(0.05), REFERENCE, threshold=0.01).forgot is True


def test_under_unlearning_is_told_from_over_unlearning() -> None:
    under = make_verdict(TARGET, unlearned(1e-9, probability=0.6), REFERENCE)
    over = make_verdict(TARGET, unlearned(1e-9, probability=0.0001), REFERENCE)
    alike = make_verdict(TARGET, unlearned(1e-9, probability=0.16), REFERENCE)
    assert under.forgot is over.forgot is alike.forgot is False
    assert under.sentence.startswith("Not forgotten")
    assert any("something may be left" in reason for reason in under.reasons)
    assert over.sentence.startswith("Unlearned too far")
    assert any("pushed further than that" in reason for reason in over.reasons)
    assert alike.sentence.startswith("Not like a model that never saw the forget set")


def test_without_a_retain_model_forgetting_cannot_be_said() -> None:
    after = result("unlearned", Value.missing("a retain model: a retain-only model"), number(0.58), 0.01)
    before = result("target", Value.missing("a retain model: a retain-only model"), number(0.60), 0.95)
    verdict = make_verdict(before, after, None)
    assert verdict.forgot is None
    assert verdict.kept is True
    assert "cannot be said" in verdict.sentence
    assert "needs a retain model" in verdict.sentence


def test_a_test_that_the_target_passes_says_nothing() -> None:
    """With 40 rows a p of .3 after unlearning is worthless if the target already has .2."""
    before = result("target", quality(0.2, n=40), number(0.60), 0.95)
    verdict = make_verdict(before, unlearned(0.3, n=40), REFERENCE)
    assert verdict.forgot is None
    assert any("even the target" in reason for reason in verdict.reasons)


def test_utility_limits() -> None:
    """0.9 x 0.60 = 0.54."""
    assert make_verdict(TARGET, unlearned(0.5, mu=0.5401), REFERENCE).kept is True
    lost = make_verdict(TARGET, unlearned(0.5, mu=0.5399, half=0.001), REFERENCE)
    assert lost.kept is False
    assert "utility lost" in lost.sentence
    assert make_verdict(None, unlearned(0.5), REFERENCE).kept is None


def test_an_interval_across_the_limit_is_told() -> None:
    verdict = make_verdict(TARGET, unlearned(0.5, mu=0.55, half=0.05), REFERENCE)
    assert any("spans the limit 0.540" in reason for reason in verdict.reasons)


def test_nothing_evaluated_yet() -> None:
    verdict = make_verdict(TARGET, None, REFERENCE)
    assert verdict.forgot is None
    assert verdict.kept is None
    assert "has not been evaluated" in verdict.sentence


def test_an_underflowed_p_value_is_not_printed_as_zero() -> None:
    assert "5.0e-413" in make_verdict(TARGET, unlearned(0.0), REFERENCE).sentence


def test_rules_name_their_parameters() -> None:
    text = " ".join(rules(threshold=0.01, kept_fraction=0.8))
    assert "0.01" in text
    assert "0.8" in text
