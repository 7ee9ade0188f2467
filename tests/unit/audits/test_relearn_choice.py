"""The worst case is chosen on one half of the people and measured on the other, by hand with made-up attempts."""

import pytest

from expunge.audits.base import Attempt, Cost
from expunge.audits.relearn.choice import Grid, attempt_name, confirm
from expunge.audits.shared.findings import Rule, compare_arms

GRID = Grid(["all"], ["A", "B"], [16], ["probability"])
PEOPLE = {1: ("ann", "bob"), 2: ("cy", "dee")}
"""Half of the people -> its people, each with one row."""


def attempt(name, score_of, utility=1.0, **cost):
    """An attempt in which each row has the score of its half."""
    rows = [
        {"id": person, "group": person, "fold": fold, "score": score}
        for fold, score in score_of.items()
        for person in PEOPLE[fold]
    ]
    lr = {"A": 0.1, "B": 0.2}.get(name.split(", ")[1] if ", " in name else "", 0.0)
    return Attempt(name, rows, cost=Cost(**cost), utility=utility, facts={"lr": lr})


def model(before, after, utility=1.0, tier="all"):
    """Attempts on one model; `after` is setting -> score of each half, and each half is a training of its own."""
    found = [attempt("before", {1: before, 2: before})]
    for setting, scores in after.items():
        for fold, score in scores.items():
            share = utility.get((setting, fold), 1.0) if isinstance(utility, dict) else utility
            found.append(attempt(attempt_name(tier, setting, 16), {fold: score}, share, steps=16, rows=fold))
    return found


U = model(0.1, {"A": {1: 0.9, 2: 0.2}, "B": {1: 0.3, 2: 0.6}})
R = model(0.1, {"A": {1: 0.1, 2: 0.1}, "B": {1: 0.1, 2: 0.1}})


def scores(found, arm="unlearned"):
    """Score of each half in the one attempt that was chosen."""
    (chosen,) = [each for each in found[arm] if each.name != "before"]
    return {fold: {row["score"] for row in chosen.rows if row["fold"] == fold} for fold in (1, 2)}


def test_each_half_has_the_choice_of_the_other():
    """A gives most on half 1, so half 2 is measured with A, .2; half 1 with B, .3. In-sample it would be .9 and .6."""
    found, _ = confirm({"unlearned": U, "retain": R}, GRID, Rule())
    assert scores(found) == {1: {0.3}, 2: {0.2}}
    facts = found["unlearned"][-1].facts
    assert (facts["chosen_lr_1"], facts["chosen_lr_2"]) == (0.2, 0.1)
    assert facts["largest_A"] == pytest.approx((0.8 + 0.1) / 2)


def test_all_models_have_the_same_choice():
    other = model(0.0, {"A": {1: 0.01, 2: 0.02}, "B": {1: 0.03, 2: 0.04}})
    found, _ = confirm({"unlearned": U, "retain": R, "target": other}, GRID, Rule())
    assert scores(found, "target") == {1: {0.03}, 2: {0.02}}


def test_what_the_retain_model_learns_too_is_no_reason_to_choose():
    """On half 2, B takes the retain model as far as the unlearned one, so A is the choice for half 1."""
    taught = model(0.1, {"A": {1: 0.1, 2: 0.1}, "B": {1: 0.1, 2: 0.6}})
    assert scores(confirm({"unlearned": U, "retain": taught}, GRID, Rule())[0])[1] == {0.9}
    assert scores(confirm({"unlearned": U}, GRID, Rule())[0])[1] == {0.3}, "without a retain model, the largest value"


def test_a_choice_that_ruins_the_model_is_left_out():
    """B costs half of the utility on half 2, so A is the choice for half 1; if all do, the largest value is taken."""
    costly = model(0.1, {"A": {1: 0.9, 2: 0.2}, "B": {1: 0.3, 2: 0.6}}, {("B", 2): 0.5})
    assert scores(confirm({"unlearned": costly, "retain": R}, GRID, Rule())[0])[1] == {0.9}
    assert scores(confirm({"unlearned": costly, "retain": R}, GRID, Rule(utility_loss=0.6))[0])[1] == {0.3}
    ruined = model(0.1, {"A": {1: 0.9, 2: 0.2}, "B": {1: 0.3, 2: 0.6}}, 0.1)
    found, _ = confirm({"unlearned": ruined, "retain": R}, GRID, Rule())
    assert scores(found)[1] == {0.3}
    (_, finding) = compare_arms("relearn", found, Rule(), {}).findings
    assert finding.not_counted.startswith("it costs 90%")


def test_cost_is_that_of_one_half():
    found, _ = confirm({"unlearned": U, "retain": R}, GRID, Rule())
    assert (found["unlearned"][-1].cost.rows, found["unlearned"][-1].cost.steps) == (2, 16)


def test_one_training_can_serve_both_halves():
    """A tier without people of the forget set is trained once; its rows are still chosen and measured by half."""
    grid = Grid(["retain"], ["A", "B"], [16], ["probability"])
    after = {"A": {1: 0.9, 2: 0.2}, "B": {1: 0.3, 2: 0.6}}
    found = [attempt("before", {1: 0.1, 2: 0.1})]
    found += [attempt(attempt_name("retain", setting, 16), scores) for setting, scores in after.items()]
    assert scores(confirm({"unlearned": found}, grid, Rule())[0]) == {1: {0.3}, 2: {0.2}}


def test_curve_by_hand():
    """D after 0, 4 and 16 steps is 0, .2 and .6. Area: (4 (0 + .2) / 2 + 12 (.2 + .6) / 2) / 16 = .325.

    The target's excess is .9 - .1, half of it is .4, which is first reached after 16 steps.
    """
    grid = Grid(["all"], ["A"], [4, 16], ["probability"])

    def curve(before, at_4, at_16):
        return [
            attempt("before", {1: before, 2: before}),
            attempt(attempt_name("all", "A", 4), {1: at_4, 2: at_4}, seconds=2.0),
            attempt(attempt_name("all", "A", 16), {1: at_16, 2: at_16}, seconds=5.0),
        ]

    arms = {"unlearned": curve(0.1, 0.3, 0.7), "retain": curve(0.1, 0.1, 0.1), "target": curve(0.9, 0.9, 0.9)}
    found, _ = confirm(arms, grid, Rule())
    facts = found["unlearned"][-1].facts
    assert [facts["step_0"], facts["step_4"], facts["step_16"]] == pytest.approx([0, 0.2, 0.6])
    assert facts["area"] == pytest.approx(0.325)
    assert facts["steps_to_half"] == 16
    assert found["unlearned"][-1].cost.seconds == 7.0, "seconds until step 16"
    arms["unlearned"] = curve(0.1, 0.3, 0.4)
    assert "steps_to_half" not in confirm(arms, grid, Rule())[0]["unlearned"][-1].facts
    arms["unlearned"] = curve(0.8, 0.8, 0.8)
    assert confirm(arms, grid, Rule())[0]["unlearned"][-1].facts["steps_to_half"] == 0
    del arms["target"]
    assert "steps_to_half" not in confirm(arms, grid, Rule())[0]["unlearned"][-1].facts


def test_shuffled_answers_have_the_choice_of_the_true_ones_and_do_not_count():
    grid = Grid(["all", "shuffled"], ["A", "B"], [16], ["probability"])
    null = model(0.1, {"A": {1: 0.2, 2: 0.5}, "B": {1: 0.1, 2: 0.2}}, tier="shuffled")[1:]
    unmoved = model(0.1, {"A": {1: 0.1, 2: 0.1}, "B": {1: 0.1, 2: 0.1}}, tier="shuffled")[1:]
    arms = {"unlearned": [*U, *null], "retain": [*R, *unmoved]}
    found, notes = confirm(arms, grid, Rule())
    true, shuffled = found["unlearned"][1:]
    assert {row["id"]: row["score"] for row in shuffled.rows} == {"ann": 0.1, "bob": 0.1, "cy": 0.5, "dee": 0.5}
    assert not true.not_counted
    assert "other people" in shuffled.not_counted
    assert true.facts["shuffled"] == pytest.approx(0.2)
    assert any("shuffled answers has an effect of +0.200" in line for line in notes)


def test_tiers_that_were_not_run_are_named():
    grid = Grid(["retain", 16, "all"], ["A", "B"], [16], ["probability"])
    found, notes = confirm({"unlearned": U, "retain": R}, grid, Rule())
    assert [each.name for each in found["unlearned"]] == ["before", "all rows of other people"]
    assert "Relearning on retain rows is left out: the data has no retain set." in notes
    assert "Relearning on 16 rows of other people is left out: each half of the people needs more rows than that." in (
        notes
    )


def test_rows_that_cannot_be_measured_do_not_count():
    broken = [Attempt(each.name, [{**row, "score": None} for row in each.rows], facts=each.facts) for each in U]
    found, _ = confirm({"unlearned": broken, "retain": R}, GRID, Rule())
    assert "step_16" not in found["unlearned"][-1].facts
