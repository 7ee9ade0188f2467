"""Selection rules: the forms, scores by hand, ties, bounds that no candidate is within, and wrong rules."""

import math

import pytest

from expunge.config.load import parse
from expunge.config.recipe import Evaluate
from expunge.config.selection_rule import Rule, comparable, harmonic_mean, read_rule, read_trial_rule
from expunge.errors import ConfigError
from expunge.records import Value

BOTH = {"forget_quality": "up", "model_utility": "up"}
BOUNDED = "max model_utility subject to forget_quality >= 0.05"


def values(quality: float | None = None, utility: float | None = None) -> dict[str, Value]:
    points = {"forget_quality": quality, "model_utility": utility}
    return {name: Value.missing("x") if point is None else Value(point=point) for name, point in points.items()}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("last", Rule("last", ())),
        ("max  a", Rule("max a", ("a",))),
        ("min forget/x", Rule("min forget/x", ("forget/x",), sign=-1)),
        ("max a subject to b >= 5e-2", Rule("max a subject to b >= 5e-2", ("a",), guard="b", bound=0.05)),
        (
            "min a subject  to b<=-9",
            Rule("min a subject to b<=-9", ("a",), sign=-1, guard="b", guard_sign=-1, bound=-9.0),
        ),
    ],
)
def test_forms(text, rule):
    assert read_rule(text) == rule


@pytest.mark.parametrize(
    "text", ["", "max", "best a", "max a subject to b", "max a subject to b > 1", "max a b", "utility_at_quality"]
)
def test_other_texts_are_refused_with_the_allowed_forms(text):
    with pytest.raises(ValueError, match=r"is not a rule\. Write 'max NAME'.*or 'last'\."):
        read_rule(text)


def test_a_bound_must_be_a_number():
    with pytest.raises(ValueError, match=r"'1\.2\.3' is not a number"):
        read_rule("max a subject to b >= 1.2.3")


def test_last_is_a_rule_for_epochs_only():
    with pytest.raises(ValueError, match="or 'max mean of both'"):
        read_trial_rule("last", BOTH)
    assert read_rule("last").is_last


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("last", "the last epoch"),
        ("min a", "the epoch with the lowest a"),
        (BOUNDED, "the epoch with the highest model_utility among those whose forget_quality is at least 0.05"),
        ("max a subject to b <= 9", "the epoch with the highest a among those whose b is at most 9"),
    ],
)
def test_words(text, words):
    assert read_rule(text).words("epoch") == words


def test_the_mean_of_both():
    """2ab / (a + b): 2 x 0.5 x 1 / 1.5 = 2/3; 0 where one objective is 0; no score where one is missing."""
    rule = read_trial_rule("max  mean of both", BOTH)
    assert rule.names == ("forget_quality", "model_utility")
    assert rule.words("trial") == "the trial with the highest harmonic mean of forget_quality and model_utility"
    assert rule.score(values(0.5, 1.0)) == (1, pytest.approx(2 / 3))
    assert rule.score(values(0.0, 1.0)) == (1, 0.0)
    assert rule.score(values(0.5, None)) is None
    assert harmonic_mean([0.5, 1.0, 0.25]) == pytest.approx(3 / 7)


def test_choice_by_one_headline():
    candidates = [values(0.1, 0.9), values(0.4, 0.5), values(0.2, 0.7)]
    assert read_rule("max forget_quality").choose(candidates) == 1
    assert read_rule("min forget_quality").choose(candidates) == 0
    assert read_rule("last").choose(candidates) == 2
    assert read_rule(BOUNDED.replace("0.05", "0.2")).choose(candidates) == 2


def test_ties_go_to_the_earlier_candidate():
    assert read_rule("max model_utility").choose([values(0.1, 0.5), values(0.2, 0.7), values(0.3, 0.7)]) == 1


def test_a_candidate_without_the_headline_is_not_chosen():
    rule = read_rule("max model_utility")
    assert rule.choose([values(0.1, None), values(0.1, 0.2)]) == 1
    assert rule.choose([values(0.1, None)]) is None
    assert rule.choose([]) is None
    assert read_rule("last").choose([]) is None


@pytest.mark.parametrize(
    ("rule", "reached"),
    [
        ("max model_utility subject to forget_quality >= 0.5", "none reached forget_quality of 0.5"),
        ("max model_utility subject to forget_quality <= 0.01", "none stayed within forget_quality of 0.01"),
    ],
)
def test_without_a_candidate_within_the_bound_the_nearest_is_chosen(rule, reached):
    candidates = [values(0.1, 0.9), values(0.4, 0.5), values(0.2, 0.95)]
    read = read_rule(rule)
    assert read.choose(candidates) == (1 if ">=" in rule else 0)
    assert read.words_as_applied(candidates, "epoch") == f"the epoch nearest to the bound, since {reached}"


def test_words_as_applied_are_the_rule_where_a_candidate_is_within_the_bound():
    rule = read_rule(BOUNDED)
    assert rule.words_as_applied([values(0.01, 0.9), values(0.1, 0.5)], "trial") == rule.words("trial")
    assert rule.words_as_applied([values(None, 0.9)], "trial") == rule.words("trial")
    assert read_rule("last").words_as_applied([values(0.1, 0.9)], "epoch") == "the last epoch"


def test_any_score_within_the_bound_beats_any_outside():
    rule = read_rule(BOUNDED)
    assert rule.score(values(0.06, -100.0)) == (1, -100.0)
    assert rule.score(values(0.05, 0.1)) > rule.score(values(0.0499, 0.9))


def test_p_values_are_compared_by_their_logarithm():
    """Both are 0 as floats; 10^-350 is larger than 10^-400."""
    small, smaller = (
        {"forget_quality": Value(point=0.0, extra={"log10": log10}), "model_utility": Value(point=0.5)}
        for log10 in (-350.0, -400.0)
    )
    assert comparable(small, "forget_quality") == -350.0
    assert read_rule("max forget_quality").choose([smaller, small]) == 1
    assert read_rule(BOUNDED).choose([smaller, small]) == 1
    assert comparable(values(0.3), "forget_quality") == 0.3
    assert comparable(values(), "forget_quality") is None
    assert comparable({}, "forget_quality") is None


def test_the_bound_is_a_plain_value_also_for_p_values():
    value = {"forget_quality": Value(point=0.06, extra={"log10": math.log10(0.06)}), "model_utility": Value(point=1.0)}
    assert read_rule(BOUNDED).score(value) == (1, 1.0)


def test_unknown_headlines_are_named_with_the_nearest():
    rule = read_rule("max model_utilty subject to quality >= 0.05")
    problems = rule.unknown(["model_utility", "forget_quality"])
    assert problems[0] == (
        "select: 'model_utilty' is not a headline of these benchmarks. Did you mean 'model_utility'?"
    )
    assert "'quality'" in problems[1]
    assert read_rule("max a").unknown([]) == ["select: 'a' cannot be compared, because evaluate.benchmarks is empty."]
    assert read_rule("last").unknown([]) == []


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"select": "utility_at_quality"}, "'utility_at_quality' is not a rule"),
        ({"select": "max a", "every_epoch": False, "benchmarks": []}, "needs every_epoch: true"),
        ({"select": "max a", "benchmarks": []}, "'a' cannot be compared, because evaluate.benchmarks is empty"),
    ],
)
def test_the_recipe_refuses_a_rule_that_cannot_work(section, problem):
    with pytest.raises(ConfigError) as caught:
        parse(section, Evaluate, "the settings")
    assert problem in str(caught.value)
