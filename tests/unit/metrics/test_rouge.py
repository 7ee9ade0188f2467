"""ROUGE recall against values counted by hand."""

from __future__ import annotations

import pytest

from expunge.metrics.overlap import rouge_1_recall, rouge_l_recall, rouge_recalls


def test_recall_counts_words_of_the_answer():
    """Of the 4 words, 'the cat sat' holds 3 in order; 'sat cat the' holds 3, but only 1 in order."""
    answer = "the cat sat down"
    assert rouge_l_recall([answer], ["the cat sat"])[0] == 3 / 4
    assert rouge_1_recall([answer], ["the cat sat"])[0] == 3 / 4
    assert rouge_l_recall([answer], ["sat cat the"])[0] == 1 / 4
    assert rouge_1_recall([answer], ["sat cat the"])[0] == 3 / 4


def test_longer_generations_do_not_lower_recall():
    assert rouge_l_recall(["in Paris"], ["She was born in Paris in 1950, of all places."])[0] == 1.0


def test_words_are_stemmed_and_lower_cased():
    """The Porter stemmer takes 'Writing' and 'writes' to 'write'."""
    assert rouge_l_recall(["Writing novels"], ["writes novel"])[0] == 1.0


def test_empty_texts_and_texts_without_words_give_zero():
    assert list(rouge_l_recall(["word", "word", "..."], ["", "...", "..."])) == [0.0, 0.0, 0.0]


def test_no_rows_give_an_empty_array():
    assert rouge_recalls([], [])["rougeL"].shape == (0,)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="argument 2"):
        rouge_1_recall(["a"], [])
