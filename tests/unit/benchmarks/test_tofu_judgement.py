"""TOFU's judgement: forget quality against a threshold, the side of the retain model, utility against the target's."""

from __future__ import annotations

import pytest
from measurements import measurement, p_value, value

from expunge.benchmarks.tofu import Tofu
from expunge.benchmarks.tofu.judgement import (
    critical_distance,
    judge_forgetting,
    judge_utility,
    ks_p_value,
    limits,
    rules,
)
from expunge.records import Value


def measured(quality, utility=0.58, probability=0.15, half=0.01):
    headlines = {"forget_quality": quality, "model_utility": value(utility, half)}
    return measurement(headlines, {"forget/probability": value(probability, 0.03)})


TARGET = measured(p_value(1e-20), 0.60, 0.95)
RETAIN = measurement({"model_utility": value(0.60, 0.02)}, {"forget/probability": value(0.15, 0.03)})


def judge(after, target=TARGET, retain=RETAIN):
    return Tofu().judge(target, after, retain, seed=0)


def test_a_ks_p_value_by_hand():
    """Two samples of 2: D = 1 needs both rows of one below both of the other, 2 of C(4,2) = 6 orders.

    D >= 1/2 is certain. Two samples of 3: D = 1 in 2 of 20 orders, D >= 2/3 in 2 * C(6,1) = 12 of 20.
    """
    assert ks_p_value(2, 2) == pytest.approx(2 / 6)
    assert ks_p_value(1, 2) == 1
    assert ks_p_value(3, 3) == pytest.approx(2 / 20)
    assert ks_p_value(2, 3) == pytest.approx(12 / 20)


def test_ks_p_value_agrees_with_published_logs_and_scipy():
    """TOFU's full against retain90 logs: n = 300, D = 119/300 gives p = 1.834066e-21; D = .03 gives .9993."""
    from scipy.stats import ks_2samp

    assert ks_p_value(119, 300) == pytest.approx(1.834066e-21, rel=1e-6)
    assert ks_p_value(9, 300) == pytest.approx(0.9993, abs=1e-4)
    left, right = list(range(40)), [number + 8.5 for number in range(40)]
    test = ks_2samp(left, right, method="exact")
    assert ks_p_value(round(test.statistic * 40), 40) == pytest.approx(test.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [4, 40, 200, 400])
def test_critical_distance_is_the_smallest_that_rejects(n):
    distance = critical_distance(n)
    assert distance is not None
    steps = round(distance * n)
    assert ks_p_value(steps, n) <= 0.05 < ks_p_value(steps - 1, n)


def test_three_questions_can_show_nothing():
    """The smallest p with 3 rows is 2 / C(6,3) = 0.1."""
    assert critical_distance(3) is None
    judgement = judge(measured(p_value(0.4, n=3)))
    assert any("cannot find any difference" in reason for reason in judgement.reasons)
    assert judgement.forgetting.outcome == "inconclusive"


def test_forgotten_and_kept():
    judgement = judge(measured(p_value(0.47)))
    assert (judgement.forgetting.outcome, judgement.utility.outcome) == ("yes", "yes")
    assert judgement.forgetting.phrase == "Forgotten as far as this test can see"
    assert judgement.utility.phrase == "utility kept"
    assert judgement.metrics == "forget quality 0.47 on 400 questions; model utility 0.580, before 0.600"
    assert any("D = 0.0975" in reason for reason in judgement.reasons)
    assert any("D = 0.100" in reason for reason in judgement.reasons)
    assert "sees nothing below a distance of 0.0975" in judgement.limits[0]


def test_the_threshold_is_no_test_at_its_level():
    quality = p_value(0.3, n=400)
    paired = quality.model_copy(update={"extra": {**quality.extra, "paired_p": 0.021}})
    (_, sentence) = limits(paired)
    assert sentence.startswith("The threshold of 0.05 is not a test at the 5% level")
    assert sentence.endswith("The paired p-value allows for both: 0.021.")
    assert limits(quality)[1].endswith("allows for both: not available for so few groups.")


def test_the_threshold_itself_is_not_forgotten_and_can_be_set():
    after = measured(p_value(0.05))
    assert judge_forgetting(TARGET, after, RETAIN)[0].outcome == "no"
    assert judge_forgetting(TARGET, after, RETAIN, threshold=0.01)[0].outcome == "yes"


@pytest.mark.parametrize(
    ("probability", "phrase", "reason"),
    [
        (0.6, "Not forgotten", "something may be left"),
        (0.0001, "Unlearned too far (less is left than in a model that never knew)", "pushed further than that"),
        (0.16, "Not like a model that never saw the forget set", "within the range"),
    ],
)
def test_under_unlearning_differs_from_over_unlearning(probability, phrase, reason):
    judgement = judge(measured(p_value(1e-9), probability=probability))
    assert (judgement.forgetting.outcome, judgement.forgetting.phrase) == ("no", phrase)
    assert any(reason in line for line in judgement.reasons)


def test_without_a_retain_model_forgetting_is_open():
    missing = Value.missing("a retain model")
    judgement = judge(measured(missing, probability=0.01), measured(missing, 0.60, 0.95), None)
    assert (judgement.forgetting.outcome, judgement.utility.outcome) == ("inconclusive", "yes")
    assert judgement.forgetting.phrase == "Whether it forgot cannot be concluded"
    assert "Forget quality cannot be computed: needs a retain model." in judgement.reasons
    assert judgement.metrics.startswith("forget quality needs a retain model")
    assert judgement.limits[0].startswith("No test against a retain model was made")


def test_a_test_that_the_target_passes_decides_nothing():
    """With 40 rows a p of .3 after unlearning is worthless if the target already has .2."""
    judgement = judge(measured(p_value(0.3, n=40)), measured(p_value(0.2, n=40), 0.60, 0.95))
    assert judgement.forgetting.outcome == "inconclusive"
    assert any("even the target" in reason for reason in judgement.reasons)


def test_utility_limits():
    """0.9 x 0.60 = 0.54."""
    assert judge(measured(p_value(0.5), 0.5401)).utility.outcome == "yes"
    lost = judge(measured(p_value(0.5), 0.5399, half=0.001))
    assert (lost.utility.outcome, lost.utility.phrase) == ("no", "utility lost")
    assert judge_utility(TARGET, measured(p_value(0.5), 0.5), kept_fraction=0.8)[0].outcome == "yes"


def test_utility_without_a_target_cannot_be_judged():
    judgement = judge(measured(p_value(0.5)), target=None)
    assert (judgement.utility.outcome, judgement.utility.phrase) == ("inconclusive", "utility cannot be judged")
    assert any("needs the target's evaluation" in reason for reason in judgement.reasons)
    assert judge(measured(p_value(0.5)), measured(p_value(1e-9), 0.0)).utility.outcome == "inconclusive"


def test_an_interval_across_the_limit_is_reported():
    judgement = judge(measured(p_value(0.5), 0.55, half=0.05))
    assert any("spans the limit 0.540" in reason for reason in judgement.reasons)


def test_an_underflowed_p_value_is_not_printed_as_zero():
    assert "5.0e-413" in judge(measured(p_value(0.0))).metrics


def test_rules_name_their_parameters():
    text = " ".join(rules(threshold=0.01, kept_fraction=0.8))
    assert "0.01" in text
    assert "0.8" in text
    assert judge(measured(p_value(0.5))).rules == rules()


def test_sections_follow_the_measured_sets():
    assert [(section.kind, section.set, section.order) for section in Tofu().sections()] == [
        ("distribution", "forget", "remaining"),
        ("answers", "forget", "remaining"),
        ("answers", "retain", "lost"),
    ]
    assert [section.set for section in Tofu(sets=["forget"]).sections()] == ["forget", "forget"]
