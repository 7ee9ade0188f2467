"""Memorisation: values by hand, plain loops and edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.memorization import (
    cut_at,
    exact_memorization,
    extraction_strength,
    knowledge_memorization,
    verbatim_memorization,
)

T, F = True, False


def test_exact_memorization_counts_hits():
    """3 of 4 tokens, 1 of 1, 0 of 2."""
    np.testing.assert_array_equal(exact_memorization([[T, F, T, T], [T], [F, F]]), [0.75, 1.0, 0.0])


def test_extraction_strength_is_the_share_after_the_last_miss():
    """The last miss of (1, 0, 1, 1) is the second token, so two of four tokens are extracted.

    Without a miss all tokens are extracted; with a wrong last token none is, even if all others are right.
    """
    rows = [[T, F, T, T], [T, T, T], [T, T, F], [F, F, T]]
    np.testing.assert_allclose(extraction_strength(rows), [0.5, 1.0, 0.0, 1 / 3], rtol=0, atol=1e-15)


def test_openunlearning_scores_a_wrong_last_token_like_a_right_one():
    """k is at most n - 1 = 2, so both give 1 - 2/3; a single wrong token gives 1."""
    rows = [[T, T, F], [F, F, T], [F], []]
    np.testing.assert_allclose(extraction_strength(rows, openunlearning=True), [1 / 3, 1 / 3, 1.0, 0.0], atol=1e-15)


def test_answers_of_one_token_and_of_none():
    np.testing.assert_array_equal(extraction_strength([[T], [F], []]), [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(exact_memorization([[]]), [np.nan])
    assert exact_memorization([]).shape == (0,)


@pytest.mark.parametrize("openunlearning", [False, True])
def test_both_metrics_equal_a_plain_loop_over_prefixes(openunlearning):
    """Independent recomputation by the definition: try every prefix length from 0 up."""
    rng = np.random.default_rng(0)
    rows = [rng.random(int(rng.integers(1, 15))) < 0.8 for _ in range(300)]
    strengths, shares = extraction_strength(rows, openunlearning), exact_memorization(rows)
    for row, strength, share in zip(rows, strengths, shares, strict=True):
        n, k = len(row), 0
        while k < n and not all(row[k:]):
            k += 1
        if openunlearning:
            k = min(k, n - 1)
        assert strength == pytest.approx(1 - k / n, abs=1e-12)
        assert share == pytest.approx(math.fsum(float(hit) for hit in row) / n, abs=1e-12)


def test_strength_never_exceeds_the_share_of_hits():
    """Every token after the last miss is a hit."""
    rng = np.random.default_rng(1)
    rows = [rng.random(12) < 0.9 for _ in range(200)]
    assert (extraction_strength(rows) <= exact_memorization(rows) + 1e-12).all()


@pytest.mark.parametrize("row", [[0.2, 1.0], [1, 0], [[True]]])
def test_hits_that_are_not_booleans_are_rejected(row):
    with pytest.raises(ValueError, match="one boolean per token"):
        exact_memorization([row])


def test_verbatim_memorization_closed_form():
    """'a b c d' against 'a b x': LCS 2, P = 2/3, R = 2/4, F1 = 2 * (1/3) / (7/6) = 4/7."""
    assert verbatim_memorization(["a b c d"], ["a b x"])[0] == pytest.approx(4 / 7, abs=1e-12)


def test_stems_are_compared_only_on_request():
    assert verbatim_memorization(["he writes"], ["he writing"])[0] == pytest.approx(0.5)
    assert verbatim_memorization(["he writes"], ["he writing"], stem=True)[0] == 1.0
    assert knowledge_memorization(["he writes"], ["he writing"], stem=True)[0] == 1.0


def test_a_generation_is_cut_before_the_next_question():
    """Cut, the generation is exact; uncut, 2 of its 5 words are right: F1 = 2 * (2/5) / (7/5) = 4/7."""
    answer, text = ["in Bern"], ["in Bern\n\nWho wrote it"]
    assert knowledge_memorization(answer, text)[0] == 1.0
    assert knowledge_memorization(answer, text, stops=())[0] == pytest.approx(4 / 7)


def test_text_is_cut_at_the_first_occurrence_of_any_stop():
    assert cut_at("a\nQuestion: b\n\nc", ("\n\n", "\nQuestion")) == "a"
    assert cut_at("Question: b", ("Question:",)) == ""
    assert cut_at("nothing to cut", ("\n\n",)) == "nothing to cut"


def test_empty_generations_and_unequal_counts():
    """A continuation without words cannot be reproduced or missed."""
    np.testing.assert_array_equal(verbatim_memorization(["a b", ""], ["", ""]), [0.0, np.nan])
    with pytest.raises(ValueError, match="argument 2"):
        verbatim_memorization(["a"], [])
