from __future__ import annotations

import math

from markupsafe import Markup

from expunge.records import Section
from expunge.report.answers import compare, mark_words, readable

FORGET = Section(kind="answers", title="Forgotten questions", set="forget")


def row(index: int, answer: str, generation: str | None, rouge: float | None, **more):
    return {
        "set": "forget",
        "index": index,
        "question": f"Who is {index}?",
        "answer": answer,
        "generation": generation,
        "rouge_l_recall": rouge,
        "nll": 1.0,
        **more,
    }


def test_worst_first_and_unscored_last() -> None:
    after = [row(0, "a", "x", 0.2), row(1, "b", "x", None), row(2, "c", "x", 0.9)]
    assert [q.number for q in compare({"unlearned": after}, FORGET)] == [3, 1, 2]


def test_rows_are_joined_by_their_text_not_their_position() -> None:
    """A stored log may hold the same questions in another order or only some of them."""
    after = [row(0, "a", "after", 0.5)]
    before = [row(9, "zzz", "wrong", 1.0), {**row(0, "a", "before", 0.8, nll=0.5), "index": 77}]
    (question,) = compare({"target": before, "unlearned": after}, FORGET)
    assert (question.before, question.score_before, question.retain) == ("before", 0.8, None)
    assert question.probability_before == math.exp(-0.5)
    assert round(question.loss, 6) == 0.3


def test_remaining_facts_are_marked_and_grammar_is_not() -> None:
    after = [row(i, f"She was born in Town{i}.", f"She was born in Town{i}.", 1.0) for i in range(8)]
    assert compare({"unlearned": after}, FORGET)[0].after == "She was born in <mark>Town0</mark>."


def test_largest_loss_first() -> None:
    """With order 'lost', answers that gained or stayed equal are left out."""
    before = [row(i, answer, answer, score) for i, (answer, score) in enumerate((("a", 0.5), ("b", 1.0), ("c", 0.9)))]
    after = [row(i, answer, "x", score) for i, (answer, score) in enumerate((("a", 0.5), ("b", 0.2), ("c", 0.7)))]
    lost = FORGET.model_copy(update={"order": "lost"})
    assert [a.number for a in compare({"target": before, "unlearned": after}, lost)] == [2, 3]


def test_the_columns_are_those_of_the_section() -> None:
    """A benchmark with other column names is presented in the same way."""
    after = [{"set": "qa", "index": 0, "prompt": "Who?", "gold": "Ana", "reply": "It was Ana", "f1": 0.5, "nll": None}]
    section = Section(
        kind="answers", title="QA", set="qa", question="prompt", answer="gold", response="reply", score="f1"
    )
    (answer,) = compare({"unlearned": after}, section)
    assert (answer.question, answer.after, answer.score_after) == ("Who?", "It was <mark>Ana</mark>", 0.5)


def test_words_of_the_question_are_no_leak() -> None:
    after = [{**row(0, "Karvel is warm", "Karvel is cold", 0.5), "question": "How is Karvel?"}]
    assert compare({"unlearned": after}, FORGET)[0].after == "Karvel is cold"


def test_marking_escapes() -> None:
    marked = mark_words("<b>Karvel</b> & Odran", {"karvel"})
    assert isinstance(marked, Markup)
    assert marked == "&lt;b&gt;<mark>Karvel</mark>&lt;/b&gt; &amp; Odran"


def test_readable_shows_hidden_characters_and_cuts() -> None:
    assert readable("a\u202eb\u2028c\x00d") == "a\ufffdb\ufffdc\ufffdd"
    assert readable("two\nlines\tstay") == "two\nlines\tstay"
    assert readable("x" * 700).endswith("… (100 more characters)")
