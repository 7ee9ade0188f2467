"""A hundred refusals, sampled uniformly with a seed."""

from collections import Counter

import pytest

from expunge.data.refusals import answer_with_refusals, refusals
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


def test_only_answers_are_replaced():
    rows = questions(50)
    result = answer_with_refusals("preferred", rows, seed=0)
    assert result.name == "preferred"
    assert [(row.id, row.question, row.group) for row in result] == [(r.id, r.question, r.group) for r in rows]
    assert {row.answer for row in result} <= set(refusals())
    assert not any(row.paraphrased_answer or row.perturbed_answers for row in result)


def test_refusals_depend_on_the_seed():
    rows = questions(50)
    assert answer_with_refusals("a", rows, seed=1).rows == answer_with_refusals("a", rows, seed=1).rows
    assert answer_with_refusals("a", rows, seed=1).rows != answer_with_refusals("a", rows, seed=2).rows


def test_sampling_is_uniform():
    """20,000 samples of 100 refusals: 200 each, standard deviation sqrt(20000 * 0.01 * 0.99) = 14; 70 is 5 of them."""
    counts = Counter(row.answer for row in answer_with_refusals("a", questions(20_000), seed=3))
    assert len(counts) == 100
    assert all(abs(count - 200) < 70 for count in counts.values())


def test_plain_text_raises():
    rows = make_set("forget", [Row("book/7", "", "Once upon a time.", "g")])
    with pytest.raises(IncompatibleError, match="book/7"):
        answer_with_refusals("a", rows, seed=0)
