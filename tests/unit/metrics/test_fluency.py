"""Distinct n-grams, repetition and perplexity: values by hand and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.fluency import distinct_n, ngrams, perplexity, repetition, resampled_perplexity


def test_distinct_counts_over_all_texts_together():
    """'a b a' and 'a b': 5 words, 2 distinct; bigrams ab, ba, ab, 2 distinct; one trigram."""
    texts = ["a b a", "A, b!"]
    assert distinct_n(texts, 1) == pytest.approx(2 / 5)
    assert distinct_n(texts, 2) == pytest.approx(2 / 3)
    assert distinct_n(texts, 3) == 1.0


def test_distinct_decreases_for_repeated_texts_and_ignores_their_order():
    texts = ["one two three", "four five six"]
    assert distinct_n(texts, 2) == 1.0
    assert distinct_n(texts * 2, 2) == 0.5
    assert distinct_n(texts[::-1], 2) == 1.0


def test_repetition_of_a_loop_and_of_a_sentence():
    """'la la la la' has 3 bigrams, 1 distinct: 2/3 are repeated. In the sentence none is."""
    np.testing.assert_allclose(repetition(["la la la la", "she was born in Bern"], 2), [2 / 3, 0.0], atol=1e-15)


def test_texts_without_ngrams_give_nan():
    assert math.isnan(distinct_n([], 1))
    assert math.isnan(distinct_n(["", "...", "one"], 2))
    values = repetition(["one two", "one two three four"], 4)
    assert np.isnan(values[0])
    assert values[1] == 0.0


def test_distinct_and_repetition_equal_plain_loops():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), int(rng.integers(4, 20)))) for _ in range(40)]
    for n in (1, 2, 3, 4):
        all_distinct, total = set(), 0
        for text, value in zip(texts, repetition(texts, n), strict=True):
            words, distinct, count = text.split(" "), set(), 0
            for i in range(len(words) - n + 1):
                distinct.add("|".join(words[i : i + n]))
                count += 1
            all_distinct |= distinct
            total += count
            assert value == pytest.approx(1 - len(distinct) / count, abs=1e-12)
        assert distinct_n(texts, n) == pytest.approx(len(all_distinct) / total, abs=1e-12)


def test_words_may_be_of_any_script():
    """A Chinese character is a word; vowel signs, tone marks and accents belong to the word that they are in."""
    assert ngrams("Где она? 京都", 1) == [("где",), ("она",), ("京",), ("都",)]
    assert ngrams("हिन्दी में लिखा", 1) == [("हिन्दी",), ("में",), ("लिखा",)]
    assert ngrams("كَتَبَ الكتاب", 1) == [("كَتَبَ",), ("الكتاب",)]
    assert ngrams("서울에서 왔다", 2) == [("서울에서", "왔다")]
    assert ngrams("cafe\u0301 ola\u0323\u0300", 1) == [("café",), ("olạ̀",)]


def test_repetition_without_spaces_between_words():
    """As one word, a sentence has no 4-gram; by characters, a loop is recognised in Japanese and Thai."""
    loop, thai, sentence = repetition(["青い海、" * 6, "ทะเล" * 6, "青木が京都で書いた。"])
    assert loop > 0.7
    assert thai > 0.7
    assert sentence == 0.0


def test_ngrams_of_no_words_are_rejected():
    with pytest.raises(ValueError, match="at least one word"):
        distinct_n(["a"], 0)


def test_perplexity_closed_form():
    """Three tokens of probability 1/4 and one of 1: exp(-(3 ln(1/4)) / 4) = 4^(3/4)."""
    assert perplexity([3 * math.log(1 / 4), 0.0], [3, 1]) == pytest.approx(4**0.75, abs=1e-12)


def test_perplexity_weights_tokens_not_texts():
    """Two tokens of 1/2 and eight of 1/4: 2^(2/10) * 4^(8/10), closer to 4 than the mean over texts."""
    logp, tokens = np.array([2 * math.log(0.5), 8 * math.log(0.25)]), np.array([2, 8])
    assert perplexity(logp, tokens) == pytest.approx(2 ** (2 / 10) * 4 ** (8 / 10), abs=1e-12)


def test_resampled_perplexity_equals_perplexity_of_repeated_rows():
    rng = np.random.default_rng(1)
    logp, tokens = -rng.gamma(2, 1, 6), rng.integers(1, 9, 6)
    weights = rng.integers(0, 3, (5, 6)).astype(float)
    for value, row in zip(resampled_perplexity(logp, tokens, weights), weights.astype(int), strict=True):
        assert value == pytest.approx(perplexity(np.repeat(logp, row), np.repeat(tokens, row)), abs=1e-10)


def test_perplexity_of_no_tokens_and_of_unequal_shapes():
    assert math.isnan(perplexity([], []))
    assert math.isnan(perplexity([0.0], [0]))
    with pytest.raises(ValueError, match="shapes"):
        perplexity([1.0], [1, 2])
