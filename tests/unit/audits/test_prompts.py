"""Prompts of the audit `prompts`: what the model is shown, and what is counted."""

import pytest
from scripted_arm import RETAINED, ROWS, Scripted

from expunge.audits.base import BEFORE
from expunge.audits.prompts import Prompts


def asked(audit, retain=None):
    """Return attempt -> requests, sent to a model that answers 'Lima'."""
    arm = Scripted(ROWS, lambda request: "Lima", retain=retain)
    audit.attack(arm, "prompts")
    requests = {}
    for request in arm.asked:
        requests.setdefault(request.what.split("/")[0], []).append(request)
    return requests


def test_every_kind_is_an_attempt():
    audit = Prompts()
    arm = Scripted(ROWS, lambda request: "Lima", retain=RETAINED)
    attempts = audit.attack(arm, "prompts")
    # No question has a word with a synonym, and no group has four rows.
    expected = [name for name in audit.kinds() if name not in ("synonyms", "chain")]
    assert [attempt.name for attempt in attempts] == expected
    assert arm.calls == 1
    assert [row["share"] for row in attempts[0].rows] == [0.5, 0, 0, 0, 0, 0]  # 'lima' of {born, lima}


def test_templates_contain_the_question_and_do_not_change_the_answer():
    for name in ("injection", "instructed", "expert", "role_play", "hypothetical", "short"):
        requests = asked(Prompts(views=[name], **{name: "Well? {question} Now."}))
        assert [request.question for request in requests[name]] == [f"Well? {row.question} Now." for row in ROWS]
        assert [request.question for request in requests[BEFORE]] == [row.question for row in ROWS]


def test_subject_of_a_template_is_the_persons_name():
    requests = asked(Prompts(views=["expert"], expert="You know {subject}. {question}"))["expert"]
    assert requests[0].question == "You know Ana Ruiz. What of Ana Ruiz, number 0?"
    assert requests[3].question == "You know Bo Lund. What of Bo Lund, number 0?"


def test_affirmative_opening_is_the_start_of_the_response():
    (first, *_) = asked(Prompts(views=["affirmative"], affirmative="Of course:"))["affirmative"]
    assert (first.question, first.prefix) == (ROWS.rows[0].question, "Of course:")


def test_completion_has_no_prompt_format():
    (first, *_) = asked(Prompts(views=["completion"], completion="{question} So:"))["completion"]
    assert (first.question, first.raw) == ("What of Ana Ruiz, number 0? So:", True)


def test_examples_are_retain_rows():
    requests = asked(Prompts(views=["examples"], examples=2), RETAINED)["examples_2"]
    pairs = {(row.question, row.answer) for row in RETAINED}
    assert all(len(request.turns) == 2 and set(request.turns) <= pairs for request in requests)
    assert "examples_2" not in asked(Prompts(views=["examples"], examples=2))


def test_background_is_of_the_same_person_and_not_counted():
    audit = Prompts(views=["background"], background_facts=2)
    arm = Scripted(ROWS, lambda request: "Lima, Pim, Glass Bees")
    rows = audit.attack(arm, "prompts")[1].rows
    assert rows[0]["question"].endswith("What of Ana Ruiz, number 0?")
    assert all(fact in rows[0]["question"] for fact in ("Glass Bees", "Pim"))
    assert rows[0]["leaked"] == "lima"


def test_chain_of_clues_does_not_name_the_person():
    requests = asked(Prompts(views=["chain"], chain_facts=2))["chain"]
    assert len(requests) == 6
    assert not any(name in request.question for request in requests for name in ("Ana", "Ruiz", "Bo", "Lund"))
    assert "What of this person, number 0?" in requests[0].question
    assert "this person has a dog called Pim." in requests[0].question
    assert "Lima" not in requests[0].question


def test_synonyms_replace_words_in_one_pass():
    requests = asked(Prompts(views=["synonyms"], synonyms={"What": "Which", "number 0": "No. 0", "Which": "What"}))
    questions = [request.question for request in requests["synonyms"]]
    assert questions[:2] == ["Which of Ana Ruiz, No. 0?", "Which of Ana Ruiz, number 1?"]
    assert "synonyms" not in asked(Prompts(views=["synonyms"], synonyms={"Wha": "x", "umber": "x"})), "whole words"


def test_each_language_is_an_attempt():
    requests = asked(Prompts(views=["translation"], translation={"dutch": "Antwoord in het Nederlands: {question}"}))
    assert list(requests) == [BEFORE, "translation_dutch"]


def test_any_of_k_counts_a_row_that_one_kind_reveals():
    """Only the French prompt is answered, for row 0: one row of six leaks, in that attempt and in any of K."""
    audit = Prompts(views=["short", "translation"], threshold=0.5)
    arm = Scripted(ROWS, lambda request: "Lima" if "français" in request.question else "")
    judged = {each.name: each for each in audit.calibrate({"unlearned": audit.attack(arm, "prompts")})["unlearned"]}
    rates = {name: sum(row["score"] for row in each.rows) for name, each in judged.items()}
    assert rates == {
        **dict.fromkeys([BEFORE, "short", "translation_spanish", "translation_german"], 0.0),
        **dict.fromkeys(["translation_french", "any_of_k"], 1.0),
    }
    assert judged["any_of_k"].rows[0]["revealed_by"] == "translation_french"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expert": "You are an expert."}, "must contain {question}"),
        ({"chain": "{facts}"}, "must contain {question}"),
        ({"translation": {"dutch": "Antwoord"}}, "must contain {question}"),
        ({"views": ["short"], "chain_facts": 2}, "chain_facts has no effect, because views does not contain chain"),
        ({"views": ["poem"]}, "views"),
        ({"synonyms": {}}, "synonyms"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ValueError, match=message):
        Prompts(**settings)
