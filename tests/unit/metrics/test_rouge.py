"""ROUGE recall and F1: values by hand and a plain recomputation."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from expunge.metrics.rouge import (
    rouge_1_f1,
    rouge_1_recall,
    rouge_l_f1,
    rouge_l_recall,
    rouge_recalls,
    rouge_scores,
)


def test_recall_counts_words_of_the_answer():
    """Of the 4 words, 'the cat sat' contains 3 in order; 'sat cat the' contains 3, but only 1 in order."""
    answer = "the cat sat down"
    assert rouge_l_recall([answer], ["the cat sat"])[0] == 3 / 4
    assert rouge_1_recall([answer], ["the cat sat"])[0] == 3 / 4
    assert rouge_l_recall([answer], ["sat cat the"])[0] == 1 / 4
    assert rouge_1_recall([answer], ["sat cat the"])[0] == 3 / 4


def test_longer_generations_do_not_lower_recall():
    assert rouge_l_recall(["in Paris"], ["She was born in Paris in 1950, of all places."])[0] == 1.0


def test_words_are_stemmed_and_lower_cased():
    """The Porter stemmer maps 'Writing' and 'writes' to 'write'."""
    assert rouge_l_recall(["Writing novels"], ["writes novel"])[0] == 1.0


def test_empty_texts_and_texts_without_words_give_zero():
    assert list(rouge_l_recall(["word", "word", "..."], ["", "...", "..."])) == [0.0, 0.0, 0.0]


def test_no_rows_give_an_empty_array():
    assert rouge_recalls([], [])["rougeL"].shape == (0,)


def test_unequal_lengths_are_rejected():
    with pytest.raises(ValueError, match="argument 2"):
        rouge_1_recall(["a"], [])


def test_longer_generations_lower_f1():
    """Both words of the answer in 4 generated words: P = 1/2, R = 1, F1 = 2/3. Reversed, 1 of 2 is in order: 1/3."""
    assert rouge_l_f1(["in Paris"], ["born in Paris then"])[0] == pytest.approx(2 / 3)
    assert rouge_l_f1(["in Paris"], ["born Paris in then"])[0] == pytest.approx(1 / 3)
    assert rouge_1_f1(["in Paris"], ["born Paris in then"])[0] == pytest.approx(2 / 3)
    assert rouge_l_f1(["same words"], ["same words"])[0] == 1.0


def test_f1_is_symmetric_and_recall_is_not():
    first, second = ["the cat sat down"], ["the cat sat"]
    assert rouge_l_f1(first, second)[0] == rouge_l_f1(second, first)[0]
    assert rouge_l_recall(first, second)[0] != rouge_l_recall(second, first)[0]


def test_stemming_can_be_switched_off():
    assert rouge_l_f1(["writing"], ["writes"], stem=False)[0] == 0.0
    assert rouge_1_f1(["writing"], ["writes"], stem=True)[0] == 1.0


def _longest_common_subsequence(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_all_four_scores_equal_a_plain_loop():
    """Independent recomputation on random words, with the longest common subsequence by dynamic programming."""
    rng = random.Random(0)
    answers, generations = ([" ".join(rng.choices("abcdef", k=rng.randint(1, 9))) for _ in range(60)] for _ in range(2))
    scores = rouge_scores(answers, generations, stem=False)
    for i, (answer, generation) in enumerate(zip(answers, generations, strict=True)):
        a, g = answer.split(), generation.split()
        common = {"rougeL": _longest_common_subsequence(a, g), "rouge1": sum((Counter(a) & Counter(g)).values())}
        for name, count in common.items():
            assert scores[f"{name}_recall"][i] == pytest.approx(count / len(a), abs=1e-12)
            assert scores[f"{name}_f1"][i] == pytest.approx(2 * count / (len(a) + len(g)), abs=1e-12)
