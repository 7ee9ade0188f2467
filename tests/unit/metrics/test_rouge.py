"""ROUGE recall and F1: values by hand and a plain recomputation."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter

import numpy as np
import pytest

from expunge.metrics.rouge import (
    rouge_1_f1,
    rouge_1_recall,
    rouge_l_f1,
    rouge_l_recall,
    rouge_recalls,
    rouge_scores,
    word_rule,
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


def test_generations_without_words_give_zero_and_answers_without_words_give_nan():
    values = rouge_l_recall(["word", "word", "...", "🌊🌲", ""], ["", "...", "...", "🌊🌲", "word"])
    np.testing.assert_array_equal(values, [0.0, 0.0, np.nan, np.nan, np.nan])
    assert all(np.isnan(values[2:]).all() for values in rouge_scores([*"xy", "…"], [*"xy", "…"]).values())


@pytest.mark.parametrize(
    ("answer", "generation", "expected"),
    [
        ("كتبت ليلى الكتاب في بيروت.", "كتبت ليلى كتابا", 2 / 5),
        ("Книгу написала Вера.", "ВЕРА написала книгу", 1 / 3),
        ("青木が京都で書いた。", "青木が東京で書いた", 8 / 9),
        ("उनका जन्म दिल्ली में हुआ", "जन्म दिल्ली में", 3 / 5),
        ("เธอเกิด", "เธอเกิด", 1.0),
        ("김민수가 서울에서 썼다", "김민수가 썼다", 2 / 3),
        ("Ο Γιώργος, 1981", "1981 ο Γιώργος", 2 / 3),
        ("она пишет novels", "она writes novel", 2 / 3),
        ("رقم ١٩٨١", "1981", 1 / 2),
        ("É", "é", 1.0),
        ("É, Ñ!", "ñ", 1 / 2),
        (unicodedata.normalize("NFD", "서울"), "서울", 1.0),
    ],
)
def test_other_scripts_are_counted_by_unicode_words(answer, generation, expected):
    """The same longest common subsequence, over words of Unicode Annex 29; Latin words in between are stemmed."""
    assert rouge_l_recall([answer], [generation])[0] == pytest.approx(expected)
    assert rouge_l_recall([answer], [answer])[0] == 1.0
    assert rouge_l_recall([answer], ["Я не знаю 不 ไม่ لا"])[0] == 0.0


def test_latin_answers_are_scored_by_rouge_score_alone():
    """Bit-equal to rouge-score, also for accents, and for a generation in another script."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    answers = ["José Álvarez wrote 12,500 lines, didn't he?", "Ðuro in Łódź", "São Paulo 1981", "plain words"]
    generations = ["Jose wrote lines", "Duro Łódź 東京", "Сан Paulo 1981 ano", "слова plain"]
    scores = rouge_scores(answers, generations)
    for i, pair in enumerate(zip(answers, generations, strict=True)):
        official = scorer.score(*pair)
        assert scores["rouge1_f1"][i] == official["rouge1"].fmeasure
        assert scores["rougeL_f1"][i] == official["rougeL"].fmeasure
        assert scores["rougeL_recall"][i] == official["rougeL"].recall


def test_rule_for_words_is_described_where_it_applies():
    assert word_rule(["Ana in Łódź", "12"]) == ""
    assert "Unicode" in word_rule(["Ana", "Вера"])
    assert word_rule(["Ana", "🌊", "…"]) == " (answers without a letter or digit cannot be compared: 2)"


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
