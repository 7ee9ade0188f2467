"""Paired differences with their intervals, and conclusions from intervals."""

import pytest
from measurements import row

from expunge.benchmarks.shared.paired import all_of, at_most, judge_loss, loss_rule, paired_difference, within
from expunge.records import Value


def rows(scores, name="s", groups=None):
    groups = groups or [""] * len(scores)
    return [
        {**row(name, i, score=score), "group": group}
        for i, (score, group) in enumerate(zip(scores, groups, strict=True))
    ]


def interval(low, high, point=None, n=100):
    return Value(point=(low + high) / 2 if point is None else point, low=low, high=high, n=n)


def test_a_constant_difference_has_an_interval_of_width_0():
    """Every row loses 0.25, in any order of the second list; scaled by 100: 25."""
    first, second = rows([1.0, 0.5, 0.75, 1.0, 1.0]), rows([0.75, 0.25, 0.5, 0.75, 0.75])
    value = paired_difference([(first, second[::-1])], "score", 0)
    assert (value.point, value.low, value.high, value.n, value.n_missing) == (0.25, 0.25, 0.25, 5, 0)
    assert paired_difference([(first, second)], "score", 0, scale=100).point == 25


def test_groups_are_resampled_together():
    """Half of ten groups of four rows lose 1, the others nothing: the spread is that of ten rows, not of forty."""
    groups = [f"group {i // 4}" for i in range(40)]
    losses = rows([1] * 40, groups=groups), rows([0] * 20 + [1] * 20, groups=groups)
    value = paired_difference([losses], "score", 0)
    assert (value.point, value.n, value.extra["groups"]) == (0.5, 40, 10)
    assert "10 groups" in value.how
    single = paired_difference([(rows([1] * 40), rows([0] * 20 + [1] * 20))], "score", 0)
    assert value.high - value.low == pytest.approx(2.25 * (single.high - single.low), rel=0.1)


def test_few_groups_have_no_interval():
    groups = ["a"] * 10 + ["b"] * 10
    value = paired_difference([(rows([1] * 20, groups=groups), rows([0] * 20, groups=groups))], "score", 0)
    assert (value.point, value.low, value.no_interval) == (1, None, "2 groups of rows, at least 5 are needed")


def test_samples_have_equal_weight():
    """Loss 1 on 5 rows and 0 on 8 rows: 1/2 over samples, not 5/13 over rows."""
    losses = (rows([1] * 5), rows([0] * 5)), (rows([1] * 8, "t"), rows([1] * 8, "t"))
    value = paired_difference(losses, "score", 0)
    assert (value.point, value.low, value.high, value.n) == (0.5, 0.5, 0.5, 13)


def test_rows_without_a_partner_or_a_score_are_left_out():
    """Row 1 has no score before, row 2 none after, row 3 another id: row 0 alone is paired."""
    first, second = rows([1, None, 1, 1]), rows([0, 1, None, 1])
    second[3]["id"] = "another question"
    value = paired_difference([(first, second)], "score", 0)
    assert (value.point, value.low, value.n, value.n_missing) == (1, None, 1, 3)
    missing = paired_difference([(first, second), (rows([None]), rows([1]))], "score", 0)
    assert missing.point is None
    assert "scored for both models" in missing.needs
    assert paired_difference([], "score", 0).point is None


def test_conclusions_from_intervals():
    assert at_most(interval(0.0, 0.2), 0.2) == "yes"
    assert at_most(interval(0.2, 0.3), 0.2) == "inconclusive"
    assert at_most(interval(0.21, 0.3), 0.2) == "no"
    assert at_most(Value(point=0.0), 0.2) == "inconclusive"
    assert within(interval(0.4, 0.6), 0.5, 0.1) == "yes"
    assert within(interval(0.3, 0.6), 0.5, 0.1) == "inconclusive"
    assert within(interval(0.61, 0.7), 0.5, 0.1) == "no"
    assert within(interval(0.1, 0.39), 0.5, 0.1) == "no"
    assert within(Value.missing("x"), 0.5, 0.1) == "inconclusive"


@pytest.mark.parametrize(
    ("outcomes", "conclusion"),
    [
        (["yes", "yes"], "yes"),
        (["yes", "inconclusive"], "inconclusive"),
        (["no", "yes"], "partly"),
        (["partly"], "partly"),
        (["no", "inconclusive"], "no"),
        (["no", "no"], "no"),
        ([], "inconclusive"),
    ],
)
def test_criteria_that_must_all_hold(outcomes, conclusion):
    assert all_of(outcomes) == conclusion


def test_a_loss_below_around_and_above_the_tolerance():
    """Around 0.02: half-width 0.02 at distance 0.01 of the limit, so (0.02 / 0.01)^2 = 4 times the 100 questions."""
    kept, _ = judge_loss(interval(0.005, 0.02), 0.02, "accuracy", "questions")
    assert (kept.outcome, kept.phrase) == ("yes", "utility kept")
    lost, _ = judge_loss(interval(0.021, 0.06), 0.02, "accuracy", "questions")
    assert (lost.outcome, lost.phrase) == ("no", "utility lost")
    unclear, reasons = judge_loss(interval(-0.01, 0.03, n=1000), 0.02, "accuracy", "questions")
    assert unclear.outcome == "inconclusive"
    assert unclear.phrase == "whether utility was kept cannot be concluded at 1,000 questions"
    assert "about 4,000 questions would decide" in reasons[1]
    assert "0.0100 [-0.0100, 0.0300] on 1,000 questions (kept means at most 0.02)" in reasons[0]


def test_the_needed_number_is_rounded_up():
    """(0.02 / 0.01)^2 * 101 = 404; with d = 0.0175 it is 0.02 / 0.0025 = 8, and 64 * 101 = 6464."""
    assert "about 404 " in judge_loss(interval(-0.01, 0.03, n=101), 0.02, "a", "b")[1][1]
    assert "about 6,464 " in judge_loss(interval(-0.0025, 0.0375, n=101), 0.02, "a", "b")[1][1]
    # (0.015 / 0.01)^2 * 3 = 6.75
    assert "about 7 " in judge_loss(interval(-0.005, 0.025, n=3), 0.02, "a", "b")[1][1]


def test_no_number_of_questions_decides_a_loss_at_the_tolerance():
    _, reasons = judge_loss(interval(-0.01, 0.05, point=0.02), 0.02, "accuracy", "questions")
    assert "no number of questions would decide" in reasons[1]


def test_a_loss_that_cannot_be_computed():
    unknown, reasons = judge_loss(Value.missing("the target"), 0.02, "accuracy", "questions")
    assert (unknown.outcome, unknown.phrase) == ("inconclusive", "utility cannot be judged")
    assert reasons == ["The loss of accuracy cannot be computed: needs the target."]
    unknown, reasons = judge_loss(Value(point=0.0, n=1), 0.02, "accuracy", "questions")
    assert unknown.outcome == "inconclusive"
    assert "without an interval" in reasons[0]


def test_an_interval_of_width_0_is_pointed_out():
    kept, reasons = judge_loss(interval(0.0, 0.0, n=4), 0.02, "accuracy", "questions")
    assert kept.outcome == "yes"
    assert "All differences are equal" in reasons[1]


def test_the_rule_names_quantity_and_tolerance():
    assert "loss of accuracy" in loss_rule("accuracy", 0.3, "by question")
    assert "at or below 0.3" in loss_rule("accuracy", 0.3, "by question")
