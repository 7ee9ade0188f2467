"""Rankings, Pareto fronts and halves, against values that one can check by hand."""

import pytest
from sweep_trials import quality, trial

from expunge.config.selection_rule import read_trial_rule
from expunge.sweeps.ranking import CannotCompare, first_half, matching_rows, pareto, rank

BOTH = {"forget_quality": "up", "model_utility": "up"}
TRIALS = [
    trial(0, 0.01, 0.9),
    trial(1, 0.4, 0.5),
    trial(2, 0.06, 0.8),
    trial(3, 0.4, 0.6),
    trial(4, 0.9, 0.9, state="stopped"),
    trial(5, state="failed", error="no"),
    trial(6, None, 0.99),
]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("max forget_quality", [3, 1, 2, 0, 6]),  # 0.4 twice: the tie goes to the higher utility
        ("max model_utility", [6, 0, 2, 3, 1]),
        ("min model_utility", [1, 3, 2, 0, 6]),
        ("max model_utility subject to forget_quality >= 0.05", [2, 3, 1, 0, 6]),
        # 2ab / (a + b): 0.0198, 0.444, 0.112, 0.48
        ("max mean of both", [3, 1, 2, 0, 6]),
        ("max forget_quality subject to model_utility >= 0.85", [0, 2, 3, 1, 6]),
    ],
)
def test_ranking(text, order):
    """Stopped and failed trials are never ranked; a trial without the number comes last, or first where it has it."""
    assert rank(TRIALS, read_trial_rule(text, BOTH), BOTH) == order


def test_p_values_too_small_for_a_float_are_still_ranked():
    """Both points are 0; their logarithms are not the same."""
    rule = read_trial_rule("max forget_quality", BOTH)
    small = trial(0).model_copy(update={"chosen_on": {"forget_quality": quality(0.0)}})
    smaller = small.model_copy(
        update={
            "number": 1,
            "chosen_on": {"forget_quality": quality(0.0).model_copy(update={"extra": {"log10": -350.0}})},
        }
    )
    assert rank([small, smaller], rule, BOTH) == [1, 0]


def test_a_bound_that_nobody_reaches_is_said():
    rule = read_trial_rule("max model_utility subject to forget_quality >= 0.95", BOTH)
    assert rank(TRIALS, rule, BOTH)[0] == 3
    complete = [trial.chosen_on for trial in TRIALS if trial.state == "complete"]
    assert "none reached forget_quality of 0.95" in rule.words_as_applied(complete, "trial")


def test_pareto_front():
    """3 beats 1 (equal quality, more utility); 0, 2 and 3 trade one for the other; 6 lacks a number; 4 was stopped."""
    assert pareto(TRIALS, BOTH) == [0, 2, 3]
    assert pareto(TRIALS, {"forget_quality": "up", "model_utility": "down"}) == [1]


def test_equal_trials_are_both_on_the_front():
    assert pareto([trial(0, 0.1, 0.5), trial(1, 0.1, 0.5)], BOTH) == [0, 1]


def rows():
    sets = {"forget": 5, "retain": 4}
    return [
        {"set": name, "index": 3 * group + k, "group": f"{name}{group}"}
        for name, count in sets.items()
        for group in range(count)
        for k in range(3)
    ]


def test_halves_split_groups_and_never_a_group():
    """3 of 5 forget groups and 2 of 4 retain groups, whole; the same for the same seed, whatever the order of rows."""
    half = first_half(rows(), seed=1)
    groups = {row["group"] for row in half}
    assert sorted(group[:6] for group in groups) == ["forget"] * 3 + ["retain"] * 2
    assert len(half) == 3 * 5
    assert {row["group"] for row in first_half(rows()[::-1], seed=1)} == groups
    assert any({row["group"] for row in first_half(rows(), seed=seed)} != groups for seed in range(2, 8))


def test_the_retain_models_half_is_the_same_rows():
    half = first_half(rows(), seed=1)
    other = [{**row, "group": "unknown"} for row in rows()]
    assert [(row["set"], row["index"]) for row in matching_rows(other, half)] == [
        (row["set"], row["index"]) for row in half
    ]


def test_one_group_cannot_be_halved():
    with pytest.raises(CannotCompare, match="forget has 1"):
        first_half([{"set": "forget", "index": 0, "group": "a"}], seed=0)
