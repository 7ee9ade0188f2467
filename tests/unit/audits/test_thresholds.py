"""Thresholds by hand, their folds, and their false alarms on a model that knows nothing."""

import numpy as np
import pytest

from expunge.audits.base import Attempt
from expunge.audits.leaks import Leaks
from expunge.audits.shared.calibration import smallest_threshold
from expunge.audits.shared.findings import Rule, verdict_of
from expunge.audits.shared.thresholds import ANY_OF_K, Judge, Thresholds
from expunge.records import Cost


def attempt(name, shares, groups=None):
    """Return an attempt with one row per share; `groups` has the group of each row."""
    rows = [
        {"id": f"{i}", "group": groups[i] if groups else f"{i}", "question": "?", "answer": "!", "share": share}
        | {"response": "", "leaked": "", "entity_share": None, "score": None}
        for i, share in enumerate(shares)
    ]
    return Attempt(name, rows, measure="leak", cost=Cost(passes=1))


def test_smallest_threshold_by_hand():
    """39 rows: (1 + 1) / 40 = .05, so one row may reach it. 19 rows: (1 + 0) / 20 = .05, so none may."""
    shares = [i / 40 for i in range(1, 40)]
    assert smallest_threshold(shares, 0.05) == pytest.approx(38 / 40, abs=1e-8)
    assert sum(share >= smallest_threshold(shares, 0.05) for share in shares) == 1
    assert smallest_threshold(shares[:19], 0.05) == pytest.approx(19 / 40, abs=1e-8)
    assert sum(share >= smallest_threshold(shares[:19], 0.05) for share in shares[:19]) == 0
    assert smallest_threshold(shares[:38], 0.05) == pytest.approx(38 / 40, abs=1e-8)


def test_equal_shares_are_all_below_the_threshold_or_none():
    threshold = smallest_threshold([0.5] * 10 + [0.0] * 29, 0.05)
    assert 0.5 < threshold < 0.51


def test_threshold_is_at_most_the_full_answer():
    assert smallest_threshold([1.0] * 10 + [0.0] * 29, 0.05) == 1.0
    assert smallest_threshold([], 0.05) == 1.0


def test_any_of_two_by_hand():
    """Two groups of 20 and 19 rows, each left out once; no row of 19 or 20 may leak, and one of 39.

    Left out, group a exceeds w's largest share of group b, .2, by (.6 - .2) / .8 = 1/2 of the distance to 1, and group
    b exceeds v's largest share of group a, .4, by (.5 - .4) / .6 = 1/6. Raised by 1/6, one row is left.
    """
    groups = ["a"] * 20 + ["b"] * 19
    v = attempt("v", [0.4] + [0.0] * 19 + [0.5] + [0.0] * 18, groups)
    w = attempt("w", [0.0, 0.6] + [0.0] * 18 + [0.2] + [0.0] * 18, groups)
    found = Thresholds.fit({"v": v.rows, "w": w.rows}, 0.05)
    assert found.single == {"v": pytest.approx(0.4, abs=1e-8), "w": pytest.approx(0.2, abs=1e-8)}
    assert found.raised == pytest.approx(1 / 6, abs=1e-7)


def test_halves_do_not_depend_on_the_order():
    rows = attempt("before", [0.1 * (i % 7) for i in range(40)])
    groups = [row["group"] for row in rows.rows]
    found = Judge.cross_fitted([rows], groups, 0.05)
    assert sorted(found.half_of.values()) == [0] * 20 + [1] * 20
    assert found == Judge.cross_fitted([rows], reversed(groups), 0.05)


def test_rows_are_judged_by_the_threshold_of_the_other_half():
    """The retain model guesses .2 of each answer about one person and .6 about the other: .5 exceeds .2 only."""
    groups = ["a"] * 20 + ["b"] * 20
    retain = attempt("before", [0.2] * 20 + [0.6] * 20, groups)
    judge = Judge.cross_fitted([retain], groups, 0.05)
    rows = judge.judge([attempt("before", [0.5] * 40, groups)])[0].rows
    assert [row["leaks"] for row in rows] == [False] * 20 + [True] * 20
    assert [row["score"] for row in rows] == [0.0] * 20 + [1.0] * 20
    assert rows[0]["threshold"] == pytest.approx(0.6, abs=1e-8)
    assert rows[20]["threshold"] == pytest.approx(0.2, abs=1e-8)


def test_any_of_k_with_a_given_threshold_by_hand():
    """Row 0 leaks in one kind, row 1 in none, row 2 is judged in one kind only, row 3 in none."""
    attempts = [attempt("before", [0.2, 0.4, None, None]), attempt("cloze", [0.5, 0.4, 1.0, None])]
    judge = Judge.fixed(["before", "cloze"], ["0", "1", "2", "3"], 0.5)
    *_, joint = judge.judge(attempts)
    assert joint.name == ANY_OF_K
    assert [row["leaks"] for row in joint.rows] == [True, False, True, None]
    assert [row["score"] for row in joint.rows] == [1.0, 0.0, 1.0, None]
    assert [row["revealed_by"] for row in joint.rows] == ["cloze", "", "cloze", ""]
    assert joint.cost.passes == 2


def test_judging_twice_changes_nothing():
    attempts = {
        "unlearned": [attempt("before", [0.5] * 40)],
        "retain": [attempt("before", [i / 40 for i in range(40)])],
    }
    audit = Leaks()
    once = audit.calibrate(attempts)
    assert audit.calibrate(attempts) == once
    assert attempts["unlearned"][0].rows[0]["score"] is None, "the attack's own rows are unchanged"


def simulated(rng, kinds, num_groups, known=0.0):
    """Return attempts whose shares depend on the person, the question and the kind of prompt; k of 12 words each.

    Args:
        known: Share of rows that are given away in full.
    """
    groups = [f"{i}" for i in range(num_groups) for _ in range(20)]
    person = rng.normal(size=num_groups).repeat(20)
    row = rng.normal(size=len(groups))
    knows = rng.random(len(groups)) < known
    attempts = []
    for number, kind in enumerate(kinds):
        score = 0.5 * person + 0.6 * row + 0.6 * rng.normal(size=len(groups)) - 1.5 + number / 10
        words = rng.binomial(12, 1 / (1 + np.exp(-score)))
        attempts.append(attempt(kind, np.where(knows, 1.0, words / 12).tolist(), groups))
    return attempts


KINDS = ["before", "paraphrase", "cloze", "third_person", "clues_1", "clues_4"]


def test_false_alarms_on_a_model_that_knows_nothing():
    """Two models with equal distributions: at most about 5% of rows leak, in single kinds and in any of 6 together."""
    rng = np.random.default_rng(0)
    audit, leaks = Leaks(), 0
    rates: dict[str, list[float]] = {}
    for _ in range(40):
        attempts = {arm: simulated(rng, KINDS, 12) for arm in ("unlearned", "retain")}
        for arm, judged in audit.calibrate(attempts).items():
            for each in judged:
                rates.setdefault(f"{arm} {each.name}", []).append(np.mean([row["score"] for row in each.rows]))
        leaks += verdict_of(audit.findings(attempts, Rule()).findings)[0] == "leaks"
    means = {name: np.mean(values) for name, values in rates.items()}
    assert max(means.values()) < 0.058, means
    assert means["unlearned any_of_k"] > 0.02
    assert leaks <= 6  # of 40; a binomial with p = .05 exceeds 6 with a probability of .3%


def test_few_rows_and_many_kinds_have_no_more_false_alarms():
    """16 kinds of prompt and 10 rows in each half: each alone is judged by the largest of 10, so that any of 16 would
    leak in most rows, if the joint thresholds were fitted to rows that had fitted the single ones."""
    rng = np.random.default_rng(3)
    kinds = [f"kind {number}" for number in range(16)]
    rates = []
    for _ in range(30):
        shares = {arm: rng.random((16, 20)) ** 3 for arm in ("unlearned", "retain")}
        attempts = {
            arm: [attempt(*each) for each in zip(kinds, found.tolist(), strict=True)] for arm, found in shares.items()
        }
        *_, joint = Leaks().calibrate(attempts)["unlearned"]
        rates.append(np.mean([row["score"] for row in joint.rows]))
    assert np.mean(rates) < 0.15  # 1 / 11 is the smallest rate that 10 rows can ensure


def test_without_joint_thresholds_any_of_k_would_have_false_alarms():
    """The control of the test above: with the thresholds of single kinds, any of 6 has many more than 5%."""
    rng = np.random.default_rng(0)
    attempts = {arm: simulated(rng, KINDS, 20) for arm in ("unlearned", "retain")}
    *single, _ = Leaks().calibrate(attempts)["unlearned"]
    known = np.any([[row["leaks"] for row in each.rows] for each in single], axis=0)
    assert known.mean() > 0.1


def test_a_model_that_knows_is_found():
    rng = np.random.default_rng(1)
    attempts = {"unlearned": simulated(rng, KINDS, 20, known=0.3), "retain": simulated(rng, KINDS, 20)}
    result = Leaks().findings(attempts, Rule())
    outcomes = {finding.attempt: finding.outcome for finding in result.findings}
    assert outcomes == dict.fromkeys([*KINDS, ANY_OF_K], "leaks")
    joint = result.findings[-1]
    assert joint.after["unlearned"].point > 0.3
    assert joint.after["retain"].point < 0.1
    assert {"kinds", "raised_1", "raised_2"} <= set(joint.facts)
    assert {"threshold_1", "threshold_2"} <= set(result.findings[0].facts)


def test_a_retain_model_that_knows_is_named():
    rng = np.random.default_rng(2)
    attempts = {arm: simulated(rng, KINDS[:2], 20, known=0.5) for arm in ("unlearned", "retain")}
    result = Leaks().findings(attempts, Rule())
    assert any("Check that it never saw the forget set" in note for note in result.notes)
    attempts["retain"] = simulated(rng, KINDS[:2], 20)
    assert not any("Check that" in note for note in Leaks().findings(attempts, Rule()).notes)


def test_thresholds_that_cannot_be_calibrated():
    alone = Leaks().findings({"unlearned": [attempt("before", [0.5, 0.4])]}, Rule())
    assert alone.values["before (leak)"]["unlearned"].point == 0.5
    assert any("0.5 of the novel words: calibrating it needs a retain model" in note for note in alone.notes)
    one = attempt("before", [0.5, 0.4], ["a", "a"])
    single = Leaks().findings({"unlearned": [one], "retain": [one]}, Rule())
    assert any("needs rows of at least 4 groups" in note for note in single.notes)
    given = Leaks(threshold=0.4).findings({"unlearned": [one], "retain": [one]}, Rule())
    assert given.values["before (leak)"]["unlearned"].point == 1.0
    assert not any("calibrating" in note for note in given.notes)
