"""Ways of asking, their numbers by hand, and what the audit says of them."""

from dataclasses import replace

import pytest

from expunge.audits.leaks import prompts
from expunge.audits.leaks.audit import Leaks
from expunge.audits.leaks.findings import compare, describe, leak_value
from expunge.audits.shared.findings import Rule
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.metrics.leakage import find_leak


def person(group, name, *facts):
    return [
        Row(f"{group}/{i}", f"What of {name}, number {i}?", f"{name} {fact}.", group, perturbed_answers=("No.", "Yes."))
        for i, fact in enumerate(facts)
    ]


ROWS = RowSet(
    "forget",
    (
        *person("a", "Ana Ruiz", "was born in Lima", "writes about Glass Bees", "has a dog called Pim"),
        *person("b", "Bo Lund", "was born in Oslo", "wrote Tin Moon in 1981", "is a baker"),
    ),
)


class Scripted:
    """A session whose model always says the same, and which keeps what it was asked."""

    def __init__(self, rows, answer, logp=None):
        self.sets = Sets("made", rows, None, evaluation={"forget": rows})
        self._answer, self._logp, self.asked = answer, logp or {}, []

    def session(self):
        return self

    def generate(self, requests):
        self.asked += requests
        return {request.key: self._answer(request) for request in requests if self._answer(request) is not None}

    def score(self, requests):
        import numpy as np

        from expunge.probes.requests import TokenScores

        return {r.key: TokenScores(np.array([self._logp.get(r.answer, -1.0)])) for r in requests}


def test_every_clue_told_is_left_out():
    """The dog's name is told in a clue of the other question, so only what no clue tells can leak."""
    asked = next(each for each in prompts.clues(ROWS, 2, seed=0) if each.index == 0)
    assert sorted(asked.turns) == sorted((row.question, row.answer) for row in ROWS.rows[1:3])
    assert find_leak(asked.true_answer, "Lima", asked.shown).novel == ("born", "lima")
    assert find_leak("Her dog Pim and the Glass Bees.", "Pim, Glass Bees", asked.shown).novel == ()


def test_more_clues_are_added_to_the_ones_before():
    one, two = ([each.turns for each in prompts.clues(ROWS, num, seed=3)] for num in (1, 2))
    assert all(more[:1] == less for less, more in zip(one, two, strict=True))


def test_examples_are_of_other_people():
    for asked in prompts.in_context(ROWS, 3, seed=0):
        assert {row.group for row in ROWS for turn in asked.turns if turn[0] == row.question} == (
            {"a", "b"} - {ROWS.rows[asked.index].group}
        )


def test_prefix_is_shown_and_so_does_not_count():
    asked = next(prompts.prefix(ROWS, 4))
    assert asked.prefix == "Ana Ruiz was born"
    assert find_leak(asked.true_answer, "was born", asked.shown).leaked == ()


def test_cloze_blanks_what_the_question_does_not_tell():
    questions = [asked.question for asked in prompts.cloze(ROWS, "{sentence}")]
    assert questions == [
        "Ana Ruiz was born in ____.",
        "Ana Ruiz writes about ____.",
        "Ana Ruiz has a dog called ____.",
        "Bo Lund was born in ____.",
        "Bo Lund wrote ____ in ____.",
    ]


def test_reversed_asks_for_the_name_and_does_not_tell_it():
    asked = list(prompts.reversed_question(ROWS, "{facts} Who?"))
    assert [each.true_answer for each in asked] == ["Ana Ruiz"] * 3 + ["Bo Lund"] * 3
    assert all(part not in each.question for each in asked for part in each.true_answer.split())


def test_numbers_of_an_attack_by_hand():
    """A model that says 'Lima' whatever it is asked leaks row 0 in the ways that do not tell 'Lima' themselves."""
    session = Scripted(ROWS, lambda request: None if request.index == 5 else "It is Lima")
    audit = Leaks(views=["novel_recall", "clues", "prefix", "best_of_n"], clues=[1], threshold=0.5, samples=3)
    rows = audit._ask(session)
    direct = [row for row in rows if row["view"] == "novel_recall"]
    assert [row["leaks"] for row in direct] == [True, False, False, False, False, None]
    assert [row["share"] for row in direct][:2] == [0.5, 0.0]  # of {born, lima}
    assert [row["entity_leaks"] for row in direct] == [True, False, False, False, False, None]
    assert sum(request.what.startswith("best_of_3") for request in session.asked) == 3 * 6
    prefixed = [row for row in rows if row["view"] == "prefix_4"]
    assert prefixed[0]["share"] == 1.0  # 'born' is told, 'Lima' is all that is left


def test_multiple_choice_is_the_likeliest_answer():
    logp = {row.answer: -0.5 for row in ROWS.rows[:2]}
    rows = Leaks(views=["multiple_choice"])._ask(Scripted(ROWS, lambda request: "", logp))
    assert [row["leaks"] for row in rows] == [True, True, False, False, False, False], "a tie is no leak"
    logp["No."] = -0.7
    rows = Leaks(views=["multiple_choice"])._ask(Scripted(ROWS, lambda request: "", logp))
    assert [row["leaks"] for row in rows] == [True, True, False, False, False, False]
    assert rows[2]["response"] == "No."


def own_groups(outcomes):
    return {row: row for row in outcomes}


def by_person(outcomes, size=20):
    return {row: int(row) // size for row in outcomes}


def test_leak_value_leaves_out_what_could_not_be_judged():
    outcomes = {"a": True, "b": False, "c": None, "d": False, "e": False}
    value = leak_value("novel_recall", outcomes, own_groups(outcomes), 0.5)
    assert (value.point, value.n, value.n_missing) == (0.25, 4, 1)
    assert value.low < 0.25 < value.high
    assert leak_value("cloze", {"a": None}, {"a": "g"}, 0.5).needs


def test_rows_of_a_person_are_not_independent():
    """80 of 400 rows leak, all rows of 4 of 20 people: the interval is that of about 20 rows, Wilson's of 400 is [.16,
    .24]."""
    outcomes = {f"{i}": i < 80 for i in range(400)}
    value = leak_value("novel_recall", outcomes, by_person(outcomes), 0.5)
    assert value.low < 0.09
    assert value.high > 0.40
    assert "400 rows in 20 groups" in value.how
    few = leak_value("novel_recall", dict(list(outcomes.items())[:80]), by_person(outcomes), 0.5)
    assert (few.point, few.low, few.no_interval) == (1.0, None, "4 groups of rows, at least 5 are needed")


def test_published_rates_at_400_are_no_significant_difference():
    """24 of 392 against 31: 6.1 % against 7.9 %, with every leak on another row as the strongest case."""
    ours = {f"{i}": i < 24 for i in range(392)}
    theirs = {f"{i}": 24 <= i < 55 for i in range(392)}
    found = compare("novel_recall", ours, theirs, own_groups(ours), "target", 0.05)
    assert not found.significant
    assert found.sentence.startswith(
        "6.1% against 7.9% of the target at n = 392 in 392 groups: not a significant difference"
    )


def test_comparison_is_paired():
    """10 rows of 200 less, all of them rows that the control leaks: the same totals unpaired would prove nothing."""
    control = {f"{i}": i < 30 for i in range(200)}
    audited = {f"{i}": i < 20 for i in range(200)}
    found = compare("novel_recall", audited, control, own_groups(control), "target", 0.05)
    assert found.p_value == pytest.approx(2 * 0.5**10)
    assert found.significant
    assert "less, and significantly so" in found.sentence
    groups = own_groups("abc")
    shared = compare("novel_recall", {"a": True, "b": None}, {"a": False, "c": True}, groups, "target", 0.05)
    assert shared.n == 1
    assert compare("novel_recall", {"a": None}, {"a": True}, groups, "target", 0.05) is None


def test_ten_rows_of_one_person_are_one_difference():
    """As above, but the 10 rows are about one of 10 people: p is 1, since a swap of that person is as likely."""
    control = {f"{i}": i < 30 for i in range(200)}
    audited = {f"{i}": i >= 10 and i < 30 for i in range(200)}
    found = compare("novel_recall", audited, control, by_person(control), "target", 0.05)
    assert found.p_value == 1.0
    assert not found.significant


def test_too_few_people_for_any_conclusion():
    """With 5 people no p-value is below 2^-4 = .0625, so a difference in all rows is no evidence at level .05."""
    audited, control = ({f"{i}": leaks for i in range(100)} for leaks in (False, True))
    found = compare("novel_recall", audited, control, by_person(control), "target", 0.05)
    assert (found.p_value, found.significant) == (None, False)
    assert found.sentence == (
        "0.0% against 100.0% of the target at n = 100 in 5 groups: cannot be concluded, as no p-value of so few groups "
        "is below 0.062 (level 0.05)."
    )
    audited, control = ({f"{i}": leaks for i in range(120)} for leaks in (False, True))
    found = compare("novel_recall", audited, control, by_person(control), "target", 0.05)
    assert (found.p_value, found.significant) == (1 / 32, True)


def test_findings_say_what_is_missing_and_what_is_more_than_the_floor():
    audit = Leaks(views=["novel_recall", "prefix"], prefix_words=2)
    knows = audit.attack(Scripted(ROWS, lambda request: ROWS.rows[request.index].answer), "leaks")
    never = audit.attack(Scripted(ROWS, lambda request: "No idea"), "leaks")
    alone = audit.findings({"unlearned": knows}, Rule())
    assert "no control model was given" in alone.verdict
    assert len(alone.notes) == 3
    both = audit.findings({"unlearned": knows, "retain": never}, Rule())
    assert both.values["novel_recall"]["unlearned"].point == 1.0
    assert both.values["novel_recall"]["retain"].point == 0.0
    assert both.comparisons[0].control == "retain"
    assert "With 3 of 3 prompts, whether it reveals more than the retain model" in both.verdict
    assert "cannot be concluded from so few groups of rows" in both.verdict
    single = [
        [replace(each, rows=[{**row, "group": row["id"]} for row in each.rows]) for each in attempts]
        for attempts in (knows, never)
    ]
    both = audit.findings({"unlearned": single[0], "retain": single[1]}, Rule())
    assert "With 2 of 2 prompts it reveals significantly more than the retain model" in both.verdict
    assert not any("retain" in note for note in both.notes)


def test_describe_of_rows_that_could_not_be_judged():
    assert "no row could be judged" in describe({"novel_recall": {"unlearned": {"a": None}}}, [])


def test_plain_text_cannot_be_asked():
    text = RowSet("forget", (Row("0", "", "Some text.", "g"),))
    with pytest.raises(DataError, match="has no questions"):
        Leaks().stages(Sets("made", text, None))
