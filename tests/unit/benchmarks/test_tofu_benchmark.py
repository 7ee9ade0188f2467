"""The benchmark tofu: what it asks of a model, and what it makes of the answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import hmean, ks_2samp

from expunge.benchmarks.tofu.benchmark import Tofu
from expunge.benchmarks.tofu.rows import COMPONENTS
from expunge.data.sets import Row, Sets, make_set
from expunge.errors import DataError, IncompatibleError
from expunge.probes.requests import TokenScores

UTILITY = [
    f"{name}/{part}"
    for name in ("retain", "real_authors", "world_facts")
    for part in ("probability", "rouge_l_recall", "truth_ratio")
]


def make_sets(num_rows=6):
    """Four sets of `num_rows` rows, two rows per group; background sets have no paraphrase."""
    evaluation = {}
    for name in ("forget", "retain", "real_authors", "world_facts"):
        own = name in ("forget", "retain")
        evaluation[name] = make_set(
            name,
            [
                Row(
                    id=f"{name}/{i}",
                    question=f"What is {name} number {i}?",
                    answer=f"{name} answer {i}",
                    group=f"{name}/{i // 2}",
                    paraphrased_answer=f"answer {i} of {name}" if own else "",
                    perturbed_answers=tuple(f"wrong {k} {name} {i}" for k in range(5 if own else 3)),
                )
                for i in range(num_rows)
            ],
        )
    return Sets(name="made/up", forget=evaluation["forget"], retain=evaluation["retain"], evaluation=evaluation)


def token_scores(*logp):
    return TokenScores(np.array(logp))


def measure(benchmark, sets, seed=0):
    """Rows of a model whose token log-probabilities are drawn at random, and what was asked of it."""
    rng, plan = np.random.default_rng(seed), benchmark.plan(sets)
    scores = {r.key: TokenScores(-rng.gamma(2, 0.5, rng.integers(1, 9))) for r in plan.score}
    generations = {r.key: " ".join([r.set, "answer"][: rng.integers(3)]) for r in plan.generate}
    return benchmark.rows(plan, scores, generations), plan, scores


def test_plan_asks_for_every_text_once():
    """Forget and retain rows: 1 answer + 1 paraphrase + 5 wrong; background rows: 1 answer + 3 wrong."""
    plan = Tofu().plan(make_sets(6))
    assert len(plan.score) == 6 * (2 * 7 + 2 * 4)
    assert len({(r.set, r.index, r.answer) for r in plan.score}) == len(plan.score)
    assert len(plan.generate) == 24
    assert {r.max_new_tokens for r in plan.generate} == {200}


def test_equal_texts_are_scored_once_and_serve_both_places():
    row = Row("0", "q", "right", "g", paraphrased_answer="right", perturbed_answers=("wrong", "wrong", "right"))
    sets = Sets(name="s", forget=make_set("forget", [row]), retain=None)
    sets.evaluation["forget"] = sets.forget
    benchmark = Tofu(generate=False)
    plan = benchmark.plan(sets)
    assert [(r.what, r.answer) for r in plan.score] == [("answer", "right"), ("perturbed/0", "wrong")]
    scores = {("forget", 0, "answer"): token_scores(-1.0, -2.0), ("forget", 0, "perturbed/0"): token_scores(-4.0)}
    (measured,) = benchmark.rows(plan, scores, {})
    assert (measured["nll"], measured["paraphrased_nll"], measured["num_tokens"]) == (1.5, 1.5, 2)
    assert measured["perturbed_nll"] == [4.0, 4.0, 1.5]


def test_chosen_sets_only():
    """The forget set alone gives forget quality; model utility says which sets it lacks."""
    benchmark = Tofu(sets=["forget"], generate=False)
    rows, plan, _ = measure(benchmark, make_sets(6))
    assert list(plan.sets) == ["forget"]
    found = benchmark.headlines(rows, rows, resamples=0, seed=0).headlines
    assert found["forget_quality"].point == 1.0
    assert "the evaluation set retain" in found["model_utility"].needs
    with pytest.raises(ValueError, match="must include 'forget'"):
        Tofu(sets=["retain"])


def test_ds_size_shortens_forget_and_retain_only():
    plan = Tofu(ds_size=4).plan(make_sets(6))
    assert {name: len(rows) for name, rows in plan.sets.items()} == {
        "forget": 4,
        "retain": 4,
        "real_authors": 6,
        "world_facts": 6,
    }


def test_numbers_equal_a_plain_loop_over_tokens():
    """Every headline once more from the raw log-probabilities, row by row, with math and scipy only."""
    benchmark, sets = Tofu(), make_sets(8)
    rows, _, scores = measure(benchmark, sets, seed=1)
    retain_model, _, other_scores = measure(benchmark, sets, seed=2)
    numbers = benchmark.headlines(rows, retain_model, resamples=0, seed=0)

    def prob(of, name, i, what):
        logps = of[(name, i, what)].logp
        return math.exp(sum(logps) / len(logps))

    def ratio(of, name, i):
        own = name in ("forget", "retain")
        wrong = [math.log(prob(of, name, i, f"perturbed/{k}")) for k in range(5 if own else 3)]
        return math.exp(sum(wrong) / len(wrong)) / prob(of, name, i, "paraphrased" if own else "answer")

    expected = {}
    for name in ("retain", "real_authors", "world_facts"):
        plain = [prob(scores, name, i, "answer") for i in range(8)]
        wrong = [sum(prob(scores, name, i, f"perturbed/{k}") for k in range(3)) for i in range(8)]
        if name != "retain":
            plain = [p / (p + w) for p, w in zip(plain, wrong, strict=True)]
        expected[f"{name}/probability"] = sum(plain) / 8
        expected[f"{name}/truth_ratio"] = sum(max(0.0, 1 - ratio(scores, name, i)) for i in range(8)) / 8
        recalls = [row["rouge_l_recall"] for row in rows if row["set"] == name]
        expected[f"{name}/rouge_l_recall"] = sum(recalls) / 8
    for key, value in expected.items():
        assert numbers.metrics[key].point == pytest.approx(value, rel=1e-12), key
        assert (numbers.metrics[key].n, numbers.metrics[key].n_missing) == (8, 0)
    assert numbers.headlines["model_utility"].point == pytest.approx(
        hmean([expected[key] for key in UTILITY]), rel=1e-12
    )
    ours = [ratio(scores, "forget", i) for i in range(8)]
    theirs = [ratio(other_scores, "forget", i) for i in range(8)]
    quality = numbers.headlines["forget_quality"]
    assert quality.point == pytest.approx(ks_2samp(ours, theirs).pvalue, rel=1e-12)
    assert quality.extra["log10"] == pytest.approx(math.log10(quality.point))
    assert quality.extra["ks"] == pytest.approx(ks_2samp(ours, theirs).statistic)
    closeness = sum(min(r, 1 / r) for r in ours) / 8
    assert numbers.metrics["forget/truth_ratio"].point == pytest.approx(closeness, rel=1e-12)


def test_intervals_hold_the_point_and_repeat_with_the_seed():
    benchmark = Tofu()
    rows, _, _ = measure(benchmark, make_sets(40))
    numbers = benchmark.headlines(rows, None, resamples=300, seed=5)
    again = benchmark.headlines(rows, None, resamples=300, seed=5)
    assert numbers == again
    own = [value for name, value in numbers.metrics.items() if name.split("/")[1] in COMPONENTS]
    assert len(own) == 12
    for value in [numbers.headlines["model_utility"], *own]:
        assert value.low < value.point < value.high
        assert "20 groups" in value.how
    assert "300 bootstrap resamples" in numbers.headlines["model_utility"].how


def test_without_a_retain_model_forget_quality_says_so():
    rows, _, _ = measure(Tofu(), make_sets())
    quality = Tofu().headlines(rows, None, resamples=0, seed=0).headlines["forget_quality"]
    assert quality.point is None
    assert quality.needs.startswith("a retain model or its stored log")


def test_without_generation_utility_says_so():
    benchmark = Tofu(generate=False)
    rows, plan, _ = measure(benchmark, make_sets())
    numbers = benchmark.headlines(rows, None, resamples=0, seed=0)
    assert not plan.generate
    assert numbers.headlines["model_utility"].point is None
    assert "generate: true" in numbers.headlines["model_utility"].needs
    assert "generate: true" in numbers.metrics["forget/rouge_l_recall"].needs
    assert numbers.metrics["forget/probability"].point is not None


def test_rows_that_could_not_be_scored_are_counted():
    """One empty answer, one NaN, one row without a wrong answer's score, one without a generation."""
    benchmark, sets = Tofu(), make_sets(6)
    rows, plan, scores = measure(benchmark, sets)
    scores[("retain", 0, "answer")] = token_scores()
    scores[("retain", 1, "answer")] = token_scores(math.nan, -1.0)
    del scores[("retain", 2, "perturbed/3")]
    generations = {r.key: "answer" for r in plan.generate if (r.set, r.index) != ("retain", 3)}
    rows = benchmark.rows(plan, scores, generations)
    numbers = benchmark.headlines(rows, rows, resamples=0, seed=0)
    assert [row["nll"] is None for row in rows if row["set"] == "retain"][:3] == [True, True, False]
    counts = {key: (value.n, value.n_missing) for key, value in numbers.metrics.items()}
    assert counts["retain/probability"] == (4, 2)
    assert counts["retain/truth_ratio"] == (5, 1)
    assert counts["retain/rouge_l_recall"] == (5, 1)
    assert counts["world_facts/probability"] == (6, 0)
    utility = numbers.headlines["model_utility"]
    assert (utility.n, utility.n_missing) == (14, 4)


def test_forget_rows_missing_in_either_model_are_left_out_of_both():
    benchmark, sets = Tofu(), make_sets(6)
    rows, _, _ = measure(benchmark, sets, seed=1)
    retain_model, _, _ = measure(benchmark, sets, seed=2)
    rows[0]["paraphrased_nll"], rows[0]["truth_ratio"] = None, None
    retain_model[1]["perturbed_nll"], retain_model[1]["truth_ratio"] = None, None
    quality = benchmark.headlines(rows, retain_model, resamples=0, seed=0).headlines["forget_quality"]
    assert (quality.n, quality.n_missing) == (4, 2)


def test_missing_sets_are_named_not_skipped():
    sets = make_sets()
    del sets.evaluation["world_facts"]
    rows, _, _ = measure(Tofu(), sets)
    numbers = Tofu().headlines(rows, None, resamples=0, seed=0)
    assert numbers.headlines["model_utility"].needs == "the evaluation set world_facts"
    assert numbers.metrics["world_facts/probability"].needs == "the evaluation set world_facts"


def test_impossible_answers_do_not_break_the_numbers():
    """A token of probability 0 has log-probability minus infinity: a score, not a missing row."""
    benchmark, sets = Tofu(), make_sets(4)
    rows, plan, scores = measure(benchmark, sets)
    scores[("forget", 0, "answer")] = token_scores(-math.inf)
    scores[("forget", 1, "paraphrased")] = token_scores(-math.inf)
    rows = benchmark.rows(plan, scores, {r.key: "" for r in plan.generate})
    numbers = benchmark.headlines(rows, rows, resamples=20, seed=0)
    assert numbers.metrics["forget/probability"].n == 4
    assert numbers.metrics["forget/truth_ratio"].n == 4
    assert numbers.headlines["forget_quality"].point == 1.0
    assert numbers.headlines["model_utility"].point == 0.0


def test_data_without_an_evaluation_set_is_refused():
    sets = make_sets()
    sets.evaluation.clear()
    with pytest.raises(DataError, match="no evaluation set 'forget'"):
        Tofu().plan(sets)


def test_settings_without_effect_are_refused():
    with pytest.raises(ValidationError, match="no effect"):
        Tofu(generate=False, max_new_tokens=50)
    assert Tofu.model_validate(Tofu(generate=False).model_dump()) == Tofu(generate=False)


def test_other_rows_are_refused_as_retain_model():
    rows, _, _ = measure(Tofu(), make_sets(6))
    shorter, _, _ = measure(Tofu(ds_size=4), make_sets(6))
    with pytest.raises(IncompatibleError, match="Set ds_size: 4 for both"):
        Tofu().headlines(rows, shorter, resamples=0, seed=0)
