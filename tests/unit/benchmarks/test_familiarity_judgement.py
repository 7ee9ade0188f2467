"""Familiarity's judgement: the fall of familiarity and the rise of perplexity on the retain text."""

from __future__ import annotations

import pytest
from measurements import measurement, value

from expunge.benchmarks.familiarity import Familiarity
from expunge.records import Value


def measured(familiarity, perplexity=20.0, half=0.01):
    if not isinstance(familiarity, Value):
        familiarity = value(familiarity, half, n=300)
    return measurement({"familiarity": familiarity, "retain_perplexity": value(perplexity, 0.5, n=300)})


TARGET = measured(0.6)


def judge(after, target=TARGET):
    return Familiarity().judge(target, after, None, seed=0)


@pytest.mark.parametrize(
    ("after", "outcome"),
    [(0.11, "yes"), (0.12, "yes"), (0.13, "no"), (0.0, "yes"), (0.7, "no")],
    ids=["below", "the limit", "above", "nothing", "more than before"],
)
def test_forgotten_is_a_fifth(after, outcome):
    """0.6 / 5 = 0.12."""
    assert judge(measured(after)).forgetting.outcome == outcome


@pytest.mark.parametrize(("after", "outcome"), [(21.99, "yes"), (22.01, "no"), (15.0, "yes")])
def test_kept_is_a_tenth_more_perplexity(after, outcome):
    """20 x 1.1 = 22."""
    assert judge(measured(0.1, after)).utility.outcome == outcome


def test_phrases_and_metrics():
    judgement = judge(measured(0.1, 21.0))
    assert judgement.forgetting.phrase == "Forgotten as far as this test can see"
    assert judgement.utility.phrase == "utility kept"
    assert judgement.metrics == "familiarity 0.100, before 0.600; retain perplexity 21.0, before 20.0"
    assert "Familiarity fell by a factor of 6.00 (forgotten means at least 5, 300 passages)." in judgement.reasons
    lost = judge(measured(0.3, 30.0))
    assert (lost.forgetting.phrase, lost.utility.phrase) == ("Not forgotten", "utility lost")


def test_few_passages_show_nothing():
    """0.1 after 0.6, but within 0.3 of each: the intervals overlap. Within 0.04 they do not, but 0.56 / 0.14 = 4."""
    wide = judge(measured(0.1, half=0.3), measured(0.6, half=0.3))
    assert wide.forgetting.outcome == "inconclusive"
    assert any("too few passages" in reason for reason in wide.reasons)
    narrow = judge(measured(0.1, half=0.04), measured(0.6, half=0.04))
    assert narrow.forgetting.outcome == "yes"
    assert any("could change this conclusion" in reason for reason in narrow.reasons)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "needs the target's evaluation"),
        (measured(value(0.0, n=300)), "nothing to forget"),
        (measured(Value.missing("completions")), "needs completions"),
    ],
)
def test_missing_input_is_named(target, words):
    judgement = judge(measured(0.1), target)
    assert (judgement.forgetting.outcome, judgement.forgetting.phrase) == (
        "inconclusive",
        "Whether it forgot cannot be concluded",
    )
    assert any(words in reason for reason in judgement.reasons)


def test_rules_and_limits():
    judgement = judge(measured(0.1))
    text = " ".join(judgement.rules)
    assert "factor of at least 5" in text
    assert "1.1 times" in text
    assert "no test against a model that never saw the text" in judgement.limits[0]


def test_the_section_reads_the_columns_of_passages():
    (section,) = Familiarity().sections()
    assert (section.kind, section.set) == ("completions", "passages")
    assert (section.question, section.answer, section.response) == ("prompt", "text", "completion")
