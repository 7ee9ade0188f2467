"""The benchmark custom: what it asks, what it makes of the answers, and what it says is missing."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest
from pydantic import ValidationError

from expunge.benchmarks.custom.benchmark import Custom
from expunge.data.sets import Row, Sets, make_set
from expunge.errors import DataError, IncompatibleError
from expunge.metrics.agreement import forget_quality
from expunge.metrics.privleak import privleak
from expunge.metrics.separation import membership_auc
from expunge.probes.requests import TokenScores
from expunge.records import BenchmarkResult
from expunge.rundir import write_record
from expunge.runs.evaluator import write_rows

SETS = ("forget", "retain", "holdout")


def make_sets(num_rows=6, holdout=True, retain=True):
    def rows(name):
        return make_set(
            name, [Row(f"{name}/{i}", f"{name} {i}?", f"the {name} answer {i}", f"{i // 2}") for i in range(num_rows)]
        )

    return Sets("files", rows("forget"), rows("retain") if retain else None, rows("holdout") if holdout else None)


def texts(*bodies, **fields):
    return Sets(
        "files", make_set("forget", [Row(f"f/{i}", "", t, f"{i}", **fields) for i, t in enumerate(bodies)]), None
    )


def token_scores(rng, share=0.7):
    n = int(rng.integers(2, 9))
    return TokenScores(-rng.gamma(2, 0.5, n), rng.random(n) < share, -rng.gamma(2, 1, n), rng.gamma(1, 1, n))


def measure(benchmark, sets, seed=0):
    """Rows of a model whose token scores are drawn at random, and those scores."""
    rng, plan = np.random.default_rng(seed), benchmark.plan(sets)
    scores = {r.key: token_scores(rng) for r in plan.score}
    generations = {r.key: " ".join(["the", r.set, "answer"][: rng.integers(4)]) for r in plan.generate}
    return benchmark.rows(plan, scores, generations), scores


def headlines(rows, retain_model=None, benchmark=None, resamples=20):
    return (benchmark or Custom()).headlines(rows, retain_model, resamples, seed=0)


def column(rows, name, part):
    return [row[part] for row in rows if row["set"] == name]


def test_plan_scores_and_asks_each_question_once():
    plan = Custom(max_new_tokens=7).plan(make_sets(6))
    assert list(plan.sets) == list(SETS)
    assert [(r.set, r.index) for r in plan.score] == [(name, i) for name in SETS for i in range(6)]
    assert all(r.detail and not r.raw for r in plan.score)
    assert {r.max_new_tokens for r in plan.generate} == {7}
    assert len(plan.generate) == 18
    assert len(Custom(limit=2).plan(make_sets(6)).score) == 6
    assert not Custom(generate=False).plan(make_sets(6)).generate


def test_plain_text_is_scored_as_it_stands_in_pieces():
    """Pieces of at most 24 characters hold four words of five; later ones begin with a space, so they hold three."""
    plan = Custom(piece_characters=24).plan(texts("abcde " * 10, "short"))
    rows = plan.sets["forget"].rows
    four, three = "abcde abcde abcde abcde", "abcde abcde abcde"
    assert [row.answer for row in rows] == [four, three, three, "short"]
    assert [row.id for row in rows] == ["f/0/0", "f/0/1", "f/0/2", "f/1"]
    assert [row.group for row in rows] == ["0", "0", "0", "1"]
    assert all(r.raw and r.detail for r in plan.score)
    assert not plan.generate


def test_pieces_of_a_single_document_are_drawn_by_themselves():
    rows = Custom(piece_characters=24).plan(texts("abcde " * 10)).sets["forget"].rows
    assert [row.group for row in rows] == ["0/0", "0/1", "0/2"]


def test_numbers_of_a_row_by_hand():
    """Four tokens, the last one the end of the sequence: hits 1 0 1 of the other three, so EM 2/3 and ES 1/3.

    The loss counts all four. Min-40% takes floor(1.2) = 1 of three tokens: the lowest is -3; Min-40%++ the lowest of
    (-1 - 0)/1, (-3 + 1)/2 and (-2 - 0)/1, which is -2.
    """
    sets = Sets("s", make_set("forget", [Row("f/0", "who?", "in old Bern", "f/0")]), None)
    scored = TokenScores(
        np.array([-1.0, -3.0, -2.0, -6.0], np.float32),
        np.array([True, False, True, False]),
        np.array([0.0, -1.0, 0.0, 9.0], np.float32),
        np.array([1.0, 4.0, 1.0, 9.0], np.float32),
    )
    key = ("forget", 0, "answer")
    benchmark = Custom()
    (row,) = benchmark.rows(benchmark.plan(sets), {key: scored}, {key: "in Bern in Bern in Bern"})
    assert row["nll"] == 3.0
    assert row["logp"] == -12.0
    assert row["probability"] == pytest.approx(math.exp(-3), abs=1e-12)
    assert row["exact_memorization"] == pytest.approx(2 / 3)
    assert row["extraction_strength"] == pytest.approx(1 / 3)
    assert row["min_k"] == 3.0
    assert row["min_k_plus"] == 2.0
    assert row["zlib"] == pytest.approx(3 / len(zlib.compress(b"in old Bern")), abs=1e-12)
    assert row["rouge_l_recall"] == pytest.approx(2 / 3)
    assert row["rouge_l_f1"] == pytest.approx(2 * 2 / (3 + 6))
    # Three 4-grams: 'in Bern in Bern' twice and 'Bern in Bern in' once.
    assert row["repetition"] == pytest.approx(1 / 3)


def test_plain_text_has_no_end_token_to_leave_out():
    benchmark, sets = Custom(), texts("some text")
    scored = TokenScores(np.array([-1.0, -3.0]), np.array([True, False]), np.zeros(2), np.ones(2))
    (row,) = benchmark.rows(benchmark.plan(sets), {("forget", 0, "answer"): scored}, {})
    assert (row["exact_memorization"], row["extraction_strength"], row["min_k"]) == (0.5, 0.0, 3.0)
    needs = headlines([row]).metrics["forget/rouge_l_recall"].needs
    assert "plain text has no answer" in needs


def test_headlines_equal_a_recomputation_from_rows():
    rows, _ = measure(Custom(), make_sets(12))
    numbers = headlines(rows)
    for name, headline, better in (("forget", "forget_knowledge", "lower"), ("retain", "retain_knowledge", "higher")):
        value = numbers.headlines[headline]
        assert value.point == pytest.approx(math.fsum(column(rows, name, "extraction_strength")) / 12, abs=1e-12)
        assert value.low <= value.point <= value.high
        assert (value.n, value.n_missing, value.better) == (12, 0, better)
        assert "6 groups" in value.how
    for score, part in (("loss", "nll"), ("zlib", "zlib"), ("min_k", "min_k"), ("min_k_plus", "min_k_plus")):
        sides = column(rows, "forget", part), column(rows, "holdout", part)
        assert numbers.metrics[f"membership/{score}_auc"].point == membership_auc(*sides)
        assert "at least 100 holdout rows" in numbers.metrics[f"membership/{score}_tpr_at_1_fpr"].needs
    assert numbers.headlines["membership_auc"] == numbers.metrics["membership/min_k_auc"]
    for name in SETS:
        total, tokens = math.fsum(column(rows, name, "logp")), sum(column(rows, name, "num_tokens"))
        assert numbers.metrics[f"{name}/perplexity"].point == pytest.approx(math.exp(-total / tokens), rel=1e-12)
        for part in ("probability", "exact_memorization", "rouge_l_recall", "rouge_l_f1"):
            expected = math.fsum(column(rows, name, part)) / 12
            assert numbers.metrics[f"{name}/{part}"].point == pytest.approx(expected, abs=1e-12)


def test_same_seed_same_numbers():
    rows, _ = measure(Custom(), make_sets())
    assert headlines(rows) == headlines(rows)


def test_what_is_not_given_is_named_and_not_made_up():
    rows, _ = measure(Custom(), make_sets(holdout=False, retain=False))
    numbers = headlines(rows)
    needs = {name: value.needs for name, value in numbers.headlines.items() if value.point is None}
    assert set(needs) == {"retain_knowledge", "membership_auc", "privleak", "forget_agreement"}
    assert "data.retain=" in needs["retain_knowledge"]
    assert "data.holdout=" in needs["membership_auc"]
    assert "data.holdout=" in needs["privleak"]
    assert "model.retain_model=" in needs["forget_agreement"]
    assert "data.retain=" in numbers.metrics["retain/perplexity"].needs
    with_holdout, _ = measure(Custom(), make_sets())
    assert "model.retain_model=" in headlines(with_holdout).headlines["privleak"].needs
    assert "model.retain_model=" in headlines(with_holdout).metrics["membership/reference_auc"].needs


def test_retain_model_adds_its_numbers():
    rows, _ = measure(Custom(), make_sets(8))
    retain_model, _ = measure(Custom(), make_sets(8), seed=1)
    numbers = headlines(rows, retain_model[::-1])
    aucs = [
        membership_auc(column(part, "forget", "min_k"), column(part, "holdout", "min_k"))
        for part in (rows, retain_model)
    ]
    assert numbers.headlines["privleak"].point == pytest.approx(privleak(*aucs), abs=1e-9)
    expected = forget_quality(column(rows, "forget", "nll"), column(retain_model, "forget", "nll"))
    assert numbers.headlines["forget_agreement"].point == expected
    beyond = [
        np.subtract(column(rows, name, "nll"), column(retain_model, name, "nll")) for name in ("forget", "holdout")
    ]
    assert numbers.metrics["membership/reference_auc"].point == membership_auc(*beyond)
    # The same model in both places agrees entirely and leaks nothing.
    same = headlines(rows, rows).headlines
    assert (same["forget_agreement"].point, same["privleak"].point) == (1.0, 0.0)


def test_rows_without_scores_are_counted():
    benchmark, sets = Custom(), make_sets(4)
    plan, rng = benchmark.plan(sets), np.random.default_rng(0)
    scores = {r.key: token_scores(rng) for r in plan.score if (r.set, r.index) != ("forget", 3)}
    rows = benchmark.rows(plan, scores, {})
    retain_model, _ = measure(benchmark, sets, seed=2)
    numbers = headlines(rows, retain_model)
    for name in ("forget_knowledge", "forget_agreement"):
        assert (numbers.headlines[name].n, numbers.headlines[name].n_missing) == (3, 1)
    assert (numbers.headlines["privleak"].n, numbers.headlines["privleak"].n_missing) == (7, 1)
    assert "fit into the model's context" in numbers.metrics["forget/rouge_l_recall"].needs
    nothing = headlines(benchmark.rows(plan, {}, {}))
    assert "context" in nothing.headlines["forget_knowledge"].needs
    assert nothing.headlines["forget_knowledge"].n_missing == 4
    assert "scores of forget and of holdout" in nothing.headlines["membership_auc"].needs


def test_ungenerated_answers_are_asked_for():
    benchmark = Custom(generate=False, min_k=0.2)
    rows, _ = measure(benchmark, make_sets())
    numbers = headlines(rows, benchmark=benchmark)
    assert "generate: true" in numbers.metrics["forget/rouge_l_recall"].needs
    assert "Min-20% score" in numbers.headlines["membership_auc"].how
    assert "Min-20%++ score" in numbers.metrics["membership/min_k_plus_auc"].how


def test_a_retain_model_of_other_rows_is_refused():
    rows, _ = measure(Custom(), make_sets(4))
    fewer, _ = measure(Custom(), make_sets(3))
    with pytest.raises(IncompatibleError, match="has no forget row forget/3"):
        Custom().check_retain_model(rows, fewer, {}, {})
    other = [{**row, "answer": "x"} if row["id"] == "holdout/2" else row for row in rows]
    with pytest.raises(IncompatibleError, match="has another holdout row holdout/2"):
        headlines(rows, other)
    # A retain set of its own is no obstacle, nor that the name of the data differs by it.
    without = [row for row in rows if row["set"] != "retain"]
    Custom().check_retain_model(rows, without, {"split": "files/1"}, {"split": "files/2"})


def test_a_stored_result_can_be_the_retain_model(tmp_path):
    rows, _ = measure(Custom(), make_sets(4))
    result = BenchmarkResult(
        benchmark="custom",
        role="model",
        model="m",
        model_hash="h",
        settings={"prompt": "p"},
        samples="samples/m.parquet",
    )
    write_rows(tmp_path / "samples/m.parquet", rows)
    write_record(tmp_path / "results/m.json", result)
    stored, settings = Custom().read_stored(tmp_path / "results/m.json")
    assert stored == rows
    assert settings == {"prompt": "p"}
    (tmp_path / "tofu.json").write_text(json.dumps({"eval_log_forget.json": {"avg_gt_loss": {}}}))
    with pytest.raises(DataError):
        Custom().read_stored(tmp_path / "tofu.json")
    write_rows(
        tmp_path / "samples/m.parquet",
        [{k: v for k, v in row.items() if k in {"set", "index", "question", "answer", "group", "nll"}} for row in rows],
    )
    with pytest.raises(DataError, match="not a stored result of the benchmark custom"):
        Custom().read_stored(tmp_path / "results/m.json")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"generate": False, "max_new_tokens": 5}, "no effect"),
        ({"min_k": 0}, "greater than 0"),
        ({"min_k": 40}, "less than or equal to 1"),
        ({"limit": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_without_meaning_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        Custom(**settings)


@pytest.mark.parametrize("retain_model", [None, []])
def test_without_rows_every_number_says_what_it_needs(retain_model):
    """So that a sweep can refuse an unknown objective before anything is run."""
    found = Custom(gradient_norm=True).headlines([], retain_model, resamples=0, seed=0)
    assert set(found.headlines) >= {"forget_knowledge", "retain_knowledge", "membership_auc", "privleak"}
    for name, value in {**found.headlines, **found.metrics}.items():
        assert value.point is None, name
        assert value.needs, name
