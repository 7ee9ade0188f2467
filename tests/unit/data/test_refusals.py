"""A hundred refusals, drawn uniformly with a seed."""

from collections import Counter

import pytest

from expunge.data.refusals import refusals, refused
from expunge.data.sets import Row, make_set
from expunge.errors import IncompatibleError


def questions(count):
    return make_set(
        "forget",
        [
            Row(f"forget/{i}", f"Question {i}?", "Answer.", "g", "Again?", "Again.", ("No.", "Yes."))
            for i in range(count)
        ],
    )


def test_there_are_a_hundred_different_refusals():
    texts = refusals()
    assert len(texts) == len(set(texts)) == 100
    assert all(text == text.strip() and text[-1] == "." and 15 < len(text) < 80 for text in texts)


def test_questions_stay_and_every_answer_is_a_refusal():
    rows = questions(50)
    result = refused("preferred", rows, seed=0)
    assert result.name == "preferred"
    assert [(row.id, row.question, row.group) for row in result] == [(r.id, r.question, r.group) for r in rows]
    assert {row.answer for row in result} <= set(refusals())
    assert not any(row.paraphrased_answer or row.perturbed_answers for row in result)


def test_the_seed_decides():
    rows = questions(50)
    assert refused("a", rows, seed=1).rows == refused("a", rows, seed=1).rows
    assert refused("a", rows, seed=1).rows != refused("a", rows, seed=2).rows


def test_the_draw_is_uniform():
    """20,000 draws over 100: 200 each, standard deviation sqrt(20000 * 0.01 * 0.99) = 14; all within 5 of them."""
    counts = Counter(row.answer for row in refused("a", questions(20_000), seed=3))
    assert len(counts) == 100
    assert all(abs(count - 200) < 70 for count in counts.values())


def test_plain_text_cannot_be_refused():
    rows = make_set("forget", [Row("book/7", "", "Once upon a time.", "g")])
    with pytest.raises(IncompatibleError, match="book/7"):
        refused("a", rows, seed=0)
