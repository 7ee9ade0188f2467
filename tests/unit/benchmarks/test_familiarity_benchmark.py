"""The familiarity benchmark: requests, and headlines computed by hand."""

import json

import numpy as np
import pytest

from expunge.benchmarks.familiarity import Familiarity
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.probes.requests import TokenScores

ANCHORS = {"Zorblatt": ["Thomas"], "Quem": ["Milton"], "Old Mira": ["Nora"]}
TEXT = "one two three Zorblatt four five Zorblatt six seven eight nine Zorblatt went to\nQuem and “Quem” ten Old Mira"


def sets():
    forget = RowSet("forget", (Row("f/0", "", TEXT, "f"),))
    retain = RowSet("retain", (Row("r/0", "", "one two three four five six seven eight nine went to", "r"),))
    return Sets("test", forget, retain)


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(ANCHORS))
    return Familiarity(anchors=str(path), num=4, prompt_words=3, piece_characters=20)


def token_scores(probabilities):
    return TokenScores(np.log(probabilities))


def test_headlines_by_hand(benchmark):
    """Hits 1, 0, 0 of three (one passage has no completion); anchor probabilities 1/2 and 1/4.

    Perplexity 4: every token of every piece has probability 1/4.
    """
    plan = benchmark.plan(sets())
    passages = list(plan.sets["passages"])
    assert [request.answer for request in plan.score[:4]] == [" Zorblatt", " Zorblatt", " Quem", " Old Mira"]
    scores = {("passages", 0, "answer"): token_scores([0.5]), ("passages", 1, "answer"): token_scores([0.5, 0.5])}
    for name in ("forget_text", "retain_text"):
        scores |= {(name, i, "answer"): token_scores([0.25] * 5) for i in range(len(plan.sets[name]))}
    generations = {("passages", i, "answer"): text for i, text in enumerate(["saw Zorblatt", "nobody", "Zorblatt ran"])}
    assert "Zorblatt" in passages[2].question
    rows = benchmark.rows(plan, scores, generations)
    headlines = benchmark.headlines(rows, None, resamples=50, seed=0).headlines
    assert headlines["familiarity"].point == pytest.approx(1 / 3)
    assert (headlines["familiarity"].n, headlines["familiarity"].n_missing) == (3, 1)
    assert headlines["anchor_probability"].point == pytest.approx((0.5 + 0.25) / 2)
    assert headlines["forget_perplexity"].point == pytest.approx(4)
    assert headlines["retain_perplexity"].point == pytest.approx(4)
    assert headlines["retain_perplexity"].no_interval.startswith("3 groups of rows")
    assert headlines["retain_perplexity"].better == "lower"


def test_perplexity_by_document(benchmark):
    """Tokens of probability 1/2 in one book and 1/8 in the other: perplexities 2 and 8, and 4 over both books, which
    have equally many tokens. A set of one document, or of too many, has no metrics by document."""
    books = (Row("r/0", "", "one two three four", "alice"), Row("r/1", "", "five six seven one", "pan"))
    many = tuple(Row(f"f/{i}", "", f"{TEXT} {i}", f"page {i}") for i in range(21))
    for forget in (sets().forget, RowSet("forget", many)):
        plan = benchmark.model_copy(update={"num": 99}).plan(Sets("test", forget, RowSet("retain", books)))
        scores = {("forget_text", i, "answer"): token_scores([0.25]) for i in range(len(plan.sets["forget_text"]))}
        scores |= {
            ("retain_text", 0, "answer"): token_scores([1 / 2] * 3),
            ("retain_text", 1, "answer"): token_scores([1 / 8] * 3),
        }
        values = benchmark.headlines(benchmark.rows(plan, scores, {}), None, resamples=20, seed=0)
        assert {name: value.point for name, value in values.metrics.items()} == pytest.approx(
            {"retain_text/alice/perplexity": 2, "retain_text/pan/perplexity": 8}
        )
        assert values.headlines["retain_perplexity"].point == pytest.approx(4)
        assert {value.better for value in values.metrics.values()} == {"lower"}


def test_headlines_without_scores_state_what_is_missing(benchmark):
    plan = benchmark.plan(sets())
    headlines = benchmark.headlines(benchmark.rows(plan, {}, {}), None, resamples=50, seed=0).headlines
    assert {name for name, value in headlines.items() if value.point is None} == set(headlines)
    assert "context" in headlines["familiarity"].needs


def test_data_without_a_passage_is_rejected(benchmark):
    with pytest.raises(DataError, match="200 words before it"):
        benchmark.model_copy(update={"prompt_words": 200}).plan(sets())
