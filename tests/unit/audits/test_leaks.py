"""Prompts of the leak audit, their shares by hand, and its findings."""

from dataclasses import replace

import pytest
from scripted_arm import ROWS, Scripted

from expunge.audits.base import BEFORE
from expunge.audits.leaks import Leaks, prompts
from expunge.audits.shared.findings import Rule
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.metrics.leakage import find_leak


def test_every_clue_is_left_out():
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


def test_shares_by_hand():
    """A model that answers 'Lima' to everything leaks row 0, in the prompts that do not contain 'Lima' themselves."""
    arm = Scripted(ROWS, lambda request: None if request.index == 5 else "It is Lima")
    audit = Leaks(views=["clues", "prefix", "best_of_n"], clues=[1], samples=3)
    by_name = {attempt.name: attempt for attempt in audit.attack(arm, "leaks")}
    assert list(by_name) == list(audit.kinds()) == [BEFORE, "clues_1", "prefix_4", "best_of_3"]
    direct = by_name[BEFORE].rows
    assert [row["share"] for row in direct] == [0.5, 0.0, 0.0, 0.0, 0.0, None]  # row 0: of {born, lima}
    assert [row["entity_share"] for row in direct] == [1.0, 0.0, 0.0, 0.0, 0.0, None]
    assert {row["score"] for row in direct} == {None}, "thresholds are fitted when all models have answered"
    assert sum(request.what.startswith("best_of_3") for request in arm.asked) == 3 * 6
    assert by_name["best_of_3"].cost.passes == 3
    assert by_name["prefix_4"].rows[0]["share"] == 1.0  # 'born' is given, 'Lima' is all that is left
    assert arm.calls == 1, "all prompts are asked together"


def test_multiple_choice_is_the_likeliest_answer():
    """share = p / (p + p'): e^-.5 / (e^-.5 + e^-1) = .6225 for the true answers, and a tie is no leak."""
    audit = Leaks(views=["multiple_choice"], threshold=0.5)

    def choices(logp):
        arm = Scripted(ROWS, lambda request: "", logp)
        return next(each for each in audit.attack(arm, "leaks") if each.name == "multiple_choice")

    logp = {row.answer: -0.5 for row in ROWS.rows[:2]}
    assert [row["share"] for row in choices(logp).rows] == pytest.approx([0.62246, 0.62246, 0, 0, 0, 0], abs=1e-5)
    judged = audit.calibrate({"unlearned": [choices(logp)]})["unlearned"][0]
    assert [row["leaks"] for row in judged.rows] == [True, True, False, False, False, False]
    logp["No."] = -0.7
    rows = choices(logp).rows
    assert rows[2]["share"] == pytest.approx(1 / (1 + 2.718281828**0.3))
    assert rows[2]["response"] == "No."


def test_limit_covers_all_people_and_keeps_their_clues():
    arm = Scripted(ROWS, lambda request: "Lima")
    attempts = Leaks(views=["clues"], clues=[2], limit=2).attack(arm, "leaks")
    assert [[row["id"] for row in attempt.rows] for attempt in attempts] == [["a/0", "b/2"]] * 2


def test_workload_is_what_is_generated():
    audit = Leaks(views=["clues", "best_of_n"], clues=[1, 2], samples=4, limit=3)
    arm = Scripted(ROWS, lambda request: "Lima")
    audit.attack(arm, "leaks")
    assert audit.workload(arm.sets).passes == len(arm.asked) / len(ROWS) == 7 / 2


def test_findings_say_what_is_missing_and_what_is_more_than_guessed():
    audit = Leaks(views=["prefix"], prefix_words=2)
    knows = audit.attack(Scripted(ROWS, lambda request: ROWS.rows[request.index].answer), "leaks")
    never = audit.attack(Scripted(ROWS, lambda request: "No idea"), "leaks")
    alone = audit.findings({"unlearned": knows}, Rule())
    assert "A leak cannot be distinguished from a guess without a retain model" in alone.verdict
    assert len(alone.notes) == 4  # three controls, and the threshold
    both = audit.findings({"unlearned": knows, "retain": never}, Rule())
    assert both.values["before (leak)"]["unlearned"].point == 1.0
    assert both.values["before (leak)"]["retain"].point == 0.0
    entities = both.values["names, dates and numbers given to the unchanged question"]
    assert (entities["unlearned"].point, entities["unlearned"].n, entities["retain"].point) == (1.0, 5, 0.0)
    assert "There are too few groups for a conclusion" in both.verdict
    single = [
        [replace(each, rows=[{**row, "group": row["id"]} for row in each.rows]) for each in attempts]
        for attempts in (knows, never)
    ]
    both = audit.findings({"unlearned": single[0], "retain": single[1]}, Rule())
    assert both.verdict.startswith("Leaks: 3 of 3 attempts get more out of the unlearned model")
    assert not any("No retain model" in note for note in both.notes)


def test_prompts_that_the_data_does_not_allow_are_named():
    audit = Leaks(views=["paraphrase", "clues"], clues=[9], threshold=0.5)
    found = audit.findings({"unlearned": audit.attack(Scripted(ROWS, lambda request: ""), "leaks")}, Rule())
    assert "Not asked, because the data has no row for it: paraphrase, clues_9." in found.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ["clues"], "prefix_words": 2}, "prefix_words has no effect, because views does not contain prefix"),
        ({"cloze": "{question}"}, "must contain {sentence}"),
        ({"views": ["novel_recall"]}, "views"),
        ({"threshold": 0}, "threshold"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ValueError, match=message):
        Leaks(**settings)


def test_plain_text_cannot_be_asked():
    text = RowSet("forget", (Row("0", "", "Some text.", "g"),))
    with pytest.raises(DataError, match="has no questions"):
        Leaks().stages(Sets("made", text, None))
