"""Which rows of two evaluations are the same, and which retain models are refused."""

from __future__ import annotations

import pytest

from expunge.benchmarks.tofu import Tofu
from expunge.benchmarks.tofu.rows import row_truth_ratio, same_rows
from expunge.errors import IncompatibleError


def row(question, answer, name="forget"):
    return {"set": name, "question": question, "answer": answer}


def test_rows_match_by_text_in_any_order():
    ours = [row("q0", "a0"), row("q1", "a1"), row("q2", "a2")]
    assert same_rows(ours, [ours[2], row("q9", "a9"), ours[0]]) == [(0, 2), (2, 0)]


def test_a_question_matches_the_prompt_around_it_whatever_the_spacing():
    ours = [row("Who wrote 'Echoes'?", "A. B.  wrote it .")]
    assert same_rows(ours, [row("[INST] Who wrote 'Echoes'? [/INST]", "A. B. wrote it.")]) == [(0, 0)]
    assert same_rows(ours, [row("[INST] Who reads 'Echoes'? [/INST]", "A. B. wrote it.")]) == []


def test_each_row_is_used_once_and_the_exact_question_comes_first():
    """Both prompts contain 'q', but only one is 'q'; two equal rows pair with two equal rows."""
    assert same_rows([row("q", "a")], [row("a longer q", "a"), row("q", "a")]) == [(0, 1)]
    assert same_rows([row("q", "a")] * 2, [row("q", "a")] * 2) == [(0, 0), (1, 1)]
    assert same_rows([row("q", "a")] * 2, [row("q", "a")]) == [(0, 0)]


def test_rows_without_texts_pair_by_position_if_they_are_equally_many():
    ours = [row("q0", "a0"), row("q1", "a1")]
    assert same_rows(ours, [row("", "")] * 2) == [(0, 0), (1, 1)]
    assert same_rows(ours, [row("", "")] * 3) == []


def test_equal_rows_in_another_order_are_accepted():
    ours = [row("q0", "a0"), row("q1", "a1"), row("q", "a", "retain")]
    Tofu().check_retain_model(ours, ours[::-1], {"split": "forget01", "ds_size": 300}, {"split": "forget01"})


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("split", "split"),
        ("prompt", "prompt"),
        ("tokenizer", "tokenizer"),
        ("vocab", "number of embeddings"),
        ("architecture", "model family"),
    ],
)
def test_another_way_of_measuring_is_refused(fact, words):
    rows = [row("q0", "a0")]
    Tofu().check_retain_model(rows, rows, {fact: "one"}, {})
    with pytest.raises(IncompatibleError, match=f"another {words}: two, here it is one"):
        Tofu().check_retain_model(rows, rows, {fact: "one"}, {fact: "two"})


def test_another_ds_size_is_refused_and_the_common_one_named():
    ours = [row(f"q{i}", f"a{i}") for i in range(4)]
    with pytest.raises(IncompatibleError, match="Set ds_size: 3 for both"):
        Tofu().check_retain_model(ours, ours[:3], {}, {})
    with pytest.raises(IncompatibleError, match="Set ds_size: 3 for both"):
        Tofu().check_retain_model(ours[:3], ours, {}, {})


def test_another_split_is_refused_with_a_row_that_it_lacks():
    ours = [row(f"q{i}", f"a{i}") for i in range(4)]
    theirs = [row(f"q{i}", f"a{i}") for i in range(2, 6)]
    with pytest.raises(IncompatibleError, match=r"2 in common\. Not in the retain model's evaluation: 'q0'"):
        Tofu().check_retain_model(ours, theirs, {}, {})


def test_a_retain_model_without_forget_rows_is_refused():
    with pytest.raises(IncompatibleError, match="no forget rows"):
        Tofu().check_retain_model([row("q", "a")], [row("q", "a", "retain")], {}, {})


def test_truth_ratio_comes_from_the_losses_or_else_from_the_log():
    """The stored R is the geometric one, so it cannot stand in for the arithmetic one."""
    assert row_truth_ratio({"paraphrased_nll": 1.0, "perturbed_nll": [1.0], "truth_ratio": 9.0}, "geometric") == 1.0
    assert row_truth_ratio({"truth_ratio": 0.7}, "geometric") == 0.7
    assert row_truth_ratio({"truth_ratio": 0.7}, "arithmetic") is None
    assert row_truth_ratio({"paraphrased_nll": 1.0, "perturbed_nll": [1.0, None]}, "geometric") is None
