"""What the benchmark tofu measures besides its own numbers: memorisation, membership, paraphrases, fluency."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from expunge.benchmarks.custom.benchmark import Custom
from expunge.benchmarks.tofu.benchmark import Tofu
from expunge.data.sets import Row, Sets, make_set
from expunge.metrics.fluency import distinct_n
from expunge.metrics.privleak import privleak
from expunge.metrics.separation import membership_auc
from expunge.probes.requests import TokenScores


def make_sets(num_rows=6, holdout=True):
    def rows(name, **more):
        return make_set(
            name,
            [
                Row(f"{name}/{i}", f"{name} {i}?", f"the {name} answer {i}", f"{name}/{i // 2}", **more)
                for i in range(num_rows)
            ],
        )

    wrong = {"perturbed_answers": ("wrong", "false")}
    evaluation = {name: rows(name, **wrong, paraphrased_question=f"{name}, say?") for name in ("forget", "retain")}
    evaluation |= {name: rows(name, **wrong) for name in ("real_authors", "world_facts")}
    forget, retain = evaluation["forget"], evaluation["retain"]
    return Sets("made/up", forget, retain, rows("holdout") if holdout else None, evaluation=evaluation)


def token_scores(rng, detail):
    n = int(rng.integers(2, 9))
    logp = -rng.gamma(2, 0.5, n)
    return (
        TokenScores(logp, rng.random(n) < 0.7, -rng.gamma(2, 1, n), rng.gamma(1, 1, n)) if detail else TokenScores(logp)
    )


def measure(benchmark, sets, seed=0):
    """Rows of a model whose token scores are drawn at random, and those scores."""
    rng, plan = np.random.default_rng(seed), benchmark.plan(sets)
    scores = {r.key: token_scores(rng, r.detail) for r in plan.score}
    generations = {r.key: " ".join(["the", r.set, "answer", "the", "answer"][: rng.integers(6)]) for r in plan.generate}
    return benchmark.rows(plan, scores, generations), plan, scores


def headlines(benchmark, rows, retain_model=None, resamples=0):
    return benchmark.headlines(rows, retain_model, resamples, seed=0)


def column(rows, name, part):
    return [row[part] for row in rows if row["set"] == name]


def test_detail_is_asked_where_it_is_used():
    """Of forget, retain and holdout answers for memorisation, of all that is generated as drafts."""
    plan = Tofu(generate=False).plan(make_sets())
    own = {(name, "answer") for name in ("forget", "retain", "holdout")}
    assert {(r.set, r.what) for r in plan.score if r.detail} == own
    assert [r.what for r in plan.score if r.set == "holdout"] == ["answer"] * 6
    plan = Tofu().plan(make_sets())
    background = {(name, "answer") for name in ("real_authors", "world_facts")}
    assert {(r.set, r.what) for r in plan.score if r.detail} == own | background
    assert {r.set for r in plan.generate} == {"forget", "retain", "real_authors", "world_facts"}
    assert {(r.key, r.draft) for r in plan.generate} <= {(r.key, r.answer) for r in plan.score}
    assert len(Tofu(ds_size=2).plan(make_sets()).sets["holdout"]) == 2
    without = Tofu(memorization=False, generate=False).plan(make_sets())
    assert "holdout" not in without.sets
    assert not any(r.detail for r in without.score)


def test_numbers_equal_those_of_custom_on_the_same_answers():
    """The two benchmarks ask the same of forget, retain and holdout answers, so they must say the same."""
    tofu, custom, sets = Tofu(min_k=0.3), Custom(min_k=0.3), make_sets(8)
    rows, _, scores = measure(tofu, sets)
    retain_model, _, other_scores = measure(tofu, sets, seed=1)
    plan = custom.plan(sets)
    same, others = (custom.rows(plan, {r.key: of[r.key] for r in plan.score}, {}) for of in (scores, other_scores))
    ours, theirs = headlines(tofu, rows, retain_model, 20), headlines(custom, same, others, 20)
    names = [name for name in theirs.metrics if name.startswith("membership/")]
    names += [
        f"{name}/{part}" for name in ("forget", "retain") for part in ("exact_memorization", "extraction_strength")
    ]
    assert len(names) == 14
    for name in names:
        mine, other = ours.metrics[name], theirs.metrics[name]
        assert (mine.point, mine.low, mine.high, mine.n) == pytest.approx((other.point, other.low, other.high, other.n))
    assert ours.metrics["membership/privleak"] == theirs.headlines["privleak"]


def test_numbers_of_the_sets_by_hand():
    benchmark = Tofu()
    rows, _, scores = measure(benchmark, make_sets(8))
    retain_model, _, _ = measure(benchmark, make_sets(8), seed=3)
    found = headlines(benchmark, rows, retain_model[::-1]).metrics
    for name in ("forget", "retain"):
        hits = [scores[name, i, "answer"].top1[:-1] for i in range(8)]
        assert found[f"{name}/exact_memorization"].point == pytest.approx(math.fsum(h.mean() for h in hits) / 8)
        strength = [next(k for k in range(len(h) + 1) if h[k:].all()) / len(h) for h in hits]
        assert found[f"{name}/extraction_strength"].point == pytest.approx(1 - math.fsum(strength) / 8)
    for row in (row for row in rows if row["set"] == "holdout"):
        logp = scores["holdout", row["index"], "answer"].logp
        assert row["zlib"] == pytest.approx(-logp.mean() / len(zlib.compress(row["answer"].encode())))
        assert row["min_k"] == pytest.approx(-np.sort(logp[:-1])[: max(1, int(0.4 * (len(logp) - 1)))].mean())
        assert row["generation"] is None
    sides = [[column(part, name, "min_k") for name in ("forget", "holdout")] for part in (rows, retain_model)]
    assert found["membership/min_k_auc"].point == membership_auc(*sides[0])
    assert "at least 100 holdout rows" in found["membership/min_k_tpr_at_1_fpr"].needs
    assert found["membership/privleak"].point == pytest.approx(privleak(*(membership_auc(*side) for side in sides)))
    assert found["forget/distinct_2"].point == distinct_n(column(rows, "forget", "generation"))
    # 'the forget answer the answer' has two 4-grams, both new; shorter answers have one or none.
    assert found["forget/repetition"].point == 0.0
    assert found["forget/repetition"].n == sum(len(text.split()) > 3 for text in column(rows, "forget", "generation"))


def test_what_is_lacking_is_said():
    benchmark = Tofu()
    rows, _, _ = measure(benchmark, make_sets(holdout=False))
    found = headlines(benchmark, rows, rows).metrics
    assert all(
        "data.holdout=" in found[f"membership/{name}"].needs for name in ("loss_auc", "privleak", "reference_auc")
    )
    with_holdout, _, _ = measure(benchmark, make_sets())
    assert "model.retain_model=" in headlines(benchmark, with_holdout).metrics["membership/privleak"].needs
    # A retain model that was measured without holdout rows still gives forget quality.
    numbers = headlines(benchmark, with_holdout, rows)
    assert numbers.headlines["forget_quality"].point == 1.0
    assert "model.retain_model=" in numbers.metrics["membership/reference_auc"].needs
    silent, _, _ = measure(Tofu(generate=False, paraphrased=True), make_sets())
    found = headlines(Tofu(generate=False, paraphrased=True), silent).metrics
    assert "forget/repetition" not in found
    assert "generate: true" in found["forget/paraphrased_rouge_l_recall"].needs
    assert found["forget/paraphrased_probability"].n == 6


def test_headlines_do_not_depend_on_the_extras():
    sets = make_sets(8)
    rows, _, _ = measure(Tofu(), sets)
    old = [{k: v for k, v in row.items() if k not in {"extraction_strength", "repetition"}} for row in rows]
    old = [row for row in old if row["set"] != "holdout"]
    full, plain = headlines(Tofu(), rows, old, 20), headlines(Tofu(memorization=False), old, rows, 20)
    assert full.headlines == headlines(Tofu(), rows, rows, 20).headlines
    assert full.headlines == plain.headlines
    assert all(full.metrics[name] == value for name, value in plain.metrics.items())
    # Rows stored before there were extras have none, and none is made up.
    assert {name.split("/")[1] for name in headlines(Tofu(), old).metrics} == {
        "paired_quality",
        "probability",
        "rouge_l_recall",
        "truth_ratio",
    }


def test_paraphrased_questions():
    """One more text and one more answer for each forget and retain row; rows without a paraphrase are left out."""
    benchmark, sets = Tofu(paraphrased=True), make_sets(4)
    first = replace(sets.evaluation["forget"].rows[0], paraphrased_question="")
    sets.evaluation["forget"] = make_set("forget", [first, *sets.evaluation["forget"].rows[1:]])
    plan = benchmark.plan(sets)
    again = [r for r in plan.score if r.what == "paraphrased_question"]
    assert {(r.set, r.question) for r in again} == {("forget", "forget, say?"), ("retain", "retain, say?")}
    assert again[0].answer == "the forget answer 1"
    assert len(again) == len([r for r in plan.generate if r.what == "paraphrased_question"]) == 7
    scores = {r.key: TokenScores(np.array([-1.0, -3.0])) for r in again}
    generations = {r.key: "an answer" for r in plan.generate if r.what == "paraphrased_question"}
    found = headlines(benchmark, benchmark.rows(plan, scores, generations)).metrics
    value = found["forget/paraphrased_probability"]
    assert (value.n, value.n_missing) == (3, 1)
    assert value.point == pytest.approx(math.exp(-2))
    # 'answer' is one of the four words of 'the forget answer 1'.
    assert found["retain/paraphrased_rouge_l_recall"].point == pytest.approx(1 / 4)
    assert "forget/paraphrased_probability" not in headlines(Tofu(), benchmark.rows(plan, {}, {})).metrics


def test_gradient_norms_become_a_membership_score():
    class Session:
        def score(self, requests):
            return {r.key: token_scores(np.random.default_rng(r.index), True) for r in requests}

        def generate(self, requests, scores):
            return {}

        def gradient_norms(self, requests):
            return {r.key: r.index + 10.0 * (r.set == "holdout") for r in requests}

    sets = make_sets()
    for benchmark in (Tofu(gradient_norm=True), Custom(gradient_norm=True)):
        rows = benchmark.run(Session(), benchmark.plan(sets))
        assert column(rows, "forget", "gradient_norm") == [0, 1, 2, 3, 4, 5]
        assert column(rows, "retain", "gradient_norm") == [None] * 6
        assert headlines(benchmark, rows).metrics["membership/gradient_norm_auc"].point == 1.0
        plain = type(benchmark)()
        assert "membership/gradient_norm_auc" not in headlines(plain, plain.run(Session(), plain.plan(sets))).metrics


@pytest.mark.parametrize("dead", [{"min_k": 0.2}, {"gradient_norm": True}])
def test_settings_without_effect_are_refused(dead):
    with pytest.raises(ValidationError, match=f"{next(iter(dead))} has no effect with memorization: false"):
        Tofu(memorization=False, **dead)
