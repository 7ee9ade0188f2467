from __future__ import annotations

import math

from markupsafe import Markup

from expunge.report.questions import compare, mark_words, readable


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
    assert [q.number for q in compare([], after, [], "forget")] == [3, 1, 2]


def test_rows_are_joined_by_their_text_not_their_place() -> None:
    """A stored log may hold the same questions in another order or only some of them."""
    after = [row(0, "a", "after", 0.5)]
    before = [row(9, "zzz", "wrong", 1.0), {**row(0, "a", "before", 0.8, nll=0.5), "index": 77}]
    (question,) = compare(before, after, [], "forget")
    assert (question.before, question.rouge_before, question.retain_model) == ("before", 0.8, None)
    assert question.probability_before == math.exp(-0.5)
    assert round(question.loss, 6) == 0.3


def test_facts_still_told_are_marked_and_grammar_is_not() -> None:
    after = [row(i, f"She was born in Town{i}.", f"She was born in Town{i}.", 1.0) for i in range(8)]
    assert compare([], after, [], "forget")[0].after == "She was born in <mark>Town0</mark>."


def test_words_of_the_question_are_no_leak() -> None:
    after = [{**row(0, "Karvel is warm", "Karvel is cold", 0.5), "question": "How is Karvel?"}]
    assert compare([], after, [], "forget")[0].after == "Karvel is cold"


def test_marking_escapes() -> None:
    marked = mark_words("<b>Karvel</b> & Odran", {"karvel"})
    assert isinstance(marked, Markup)
    assert marked == "&lt;b&gt;<mark>Karvel</mark>&lt;/b&gt; &amp; Odran"


def test_readable_shows_hidden_characters_and_cuts() -> None:
    assert readable("a\u202eb\u2028c\x00d") == "a\ufffdb\ufffdc\ufffdd"
    assert readable("two\nlines\tstay") == "two\nlines\tstay"
    assert readable("x" * 700).endswith("… (100 more characters)")
