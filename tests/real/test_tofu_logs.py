"""The TOFU authors' logs of Llama-2-7b: every number of the published evaluation, to 1e-6.

A full model (trained on all 4000 rows) and three retain-only models, each measured on 300 retain rows, 100
real authors, 117 world facts and up to 300 rows of its forget set.
"""

from __future__ import annotations

import json
import math

import pytest
from scipy.stats import hmean

from expunge.benchmarks.tofu.benchmark import Tofu
from expunge.benchmarks.tofu.stored import read_tofu_log
from expunge.commands.score_log import score_stored
from expunge.errors import IncompatibleError
from expunge.metrics.rouge import rouge_recalls

FULL = {
    "retain/probability": 0.98953,
    "retain/rouge_l_recall": 0.98565,
    "retain/truth_ratio": 0.47470,
    "real_authors/probability": 0.45548,
    "real_authors/rouge_l_recall": 0.9330,
    "real_authors/truth_ratio": 0.5962,
    "world_facts/probability": 0.4186,
    "world_facts/rouge_l_recall": 0.8825,
    "world_facts/truth_ratio": 0.5390,
    "forget/probability": 0.9909,
    "forget/rouge_l_recall": 0.9854,
    "forget/truth_ratio": 0.5160,
}
RETAIN90 = {"forget/probability": 0.1476, "forget/rouge_l_recall": 0.4082, "forget/truth_ratio": 0.6740}


@pytest.fixture
def log(shared):
    return lambda name: shared / "data" / "tofu_eval_logs" / f"llama2-7b_{name}.json"


@pytest.mark.parametrize(
    ("name", "geometric", "arithmetic"),
    [
        ("full", 0.622677, 0.585886),
        ("retain90", 0.613745, 0.575240),
        ("retain95", 0.600577, 0.561296),
        ("retain99", 0.620744, 0.581165),
    ],
)
def test_model_utility(log, name, geometric, arithmetic):
    for mean, expected in [("geometric", geometric), ("arithmetic", arithmetic)]:
        numbers = score_stored(log(name), benchmark=Tofu(truth_ratio_mean=mean), resamples=0)
        assert numbers.headlines["model_utility"].point == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("full", FULL), ("retain90", RETAIN90)])
def test_components(log, name, expected):
    """The published components have four or five decimals; half a unit of the last is allowed."""
    metrics = score_stored(log(name), resamples=0).metrics
    for key, value in expected.items():
        digits = 5 if key in list(FULL)[:4] and key != "real_authors/rouge_l_recall" and name == "full" else 4
        assert metrics[key].point == pytest.approx(value, abs=0.51 * 10**-digits), key


def test_utility_from_the_raw_file_without_our_code(log):
    """The harmonic mean of nine means, recomputed here with plain loops."""
    data = json.loads(log("retain95").read_text(encoding="utf-8"))
    nine = []
    for section in ("eval_log.json", "eval_real_author_wo_options.json", "eval_real_world_wo_options.json"):
        part = data[section]
        chances, ratios = [], []
        for i, loss in part["avg_gt_loss"].items():
            wrong = part["average_perturb_loss"][i]
            chance = math.exp(-loss)
            if section != "eval_log.json":
                chance /= chance + sum(math.exp(-value) for value in wrong)
            chances.append(chance)
            ratio = math.exp(part["avg_paraphrased_loss"][i] - sum(wrong) / len(wrong))
            ratios.append(max(0.0, 1.0 - ratio))
        recalls = list(part["rougeL_recall"].values())
        nine += [sum(values) / len(values) for values in (chances, recalls, ratios)]
    ours = score_stored(log("retain95"), resamples=0).headlines["model_utility"].point
    assert ours == pytest.approx(hmean(nine), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "retain_model", "p", "distance", "n"),
    [
        ("full", "retain90", 1.834066e-21, 0.396667, 300),
        ("full", "retain95", 3.569034e-07, 0.39, 100),
        ("full", "full", 1.0, 0.0, 300),
        ("retain99", "retain99", 1.0, 0.0, 40),
    ],
)
def test_forget_quality(log, name, retain_model, p, distance, n):
    quality = score_stored(log(name), log(retain_model), resamples=0).headlines["forget_quality"]
    assert quality.point == pytest.approx(p, rel=1e-6)
    assert quality.extra["ks"] == pytest.approx(distance, abs=1e-6)
    assert quality.extra["log10"] == pytest.approx(math.log10(p), abs=1e-6)
    assert quality.n == n
    assert f"the same {n} forget rows" in quality.how


def test_forget01_gives_no_number(log):
    """The full log stops at row 300 of forget10; forget01 begins at row 360."""
    quality = score_stored(log("full"), log("retain99"), resamples=0).headlines["forget_quality"]
    assert quality.point is None
    assert "none can be matched" in quality.needs


def test_retain_model_of_another_split_gives_no_number(log):
    quality = score_stored(log("retain95"), log("retain90"), resamples=0).headlines["forget_quality"]
    assert quality.point is None
    assert "same split" in quality.needs


def test_intervals_are_quick_and_hold_the_point(log):
    numbers = score_stored(log("full"), log("retain90"), resamples=1000, seed=1)
    paired = numbers.metrics.pop("forget/paired_quality")
    for value in [*numbers.headlines.values(), *numbers.metrics.values()]:
        assert value.low < value.point < value.high
    assert paired.point == numbers.headlines["forget_quality"].extra["paired_p"] == paired.extra["smallest_p"]


def test_rouge_of_the_stored_texts_equals_the_stored_rouge(log):
    """The authors' ROUGE once more, from the generated and the right answers: it is the same metric."""
    rows = [row for row in read_tofu_log(log("retain90")).rows if row["set"] in ("forget", "world_facts")]
    recalls = rouge_recalls([row["answer"] for row in rows], [row["generation"] for row in rows])
    assert recalls["rougeL"] == pytest.approx([row["rouge_l_recall"] for row in rows], abs=1e-12)
    assert recalls["rouge1"] == pytest.approx([row["rouge_1_recall"] for row in rows], abs=1e-12)


def test_the_logs_match_the_published_data(shared, log):
    """Rows of a live run and of a log are found to be the same: question in the prompt, equal answer."""
    text = (shared / "data" / "tofu" / "forget10_perturbed.json").read_text(encoding="utf-8")
    data = [json.loads(line) for line in text.splitlines()]
    rows = [{"set": "forget", "question": row["question"], "answer": row["answer"]} for row in data]
    retain_model = [row for row in read_tofu_log(log("retain90")).rows if row["set"] == "forget"]
    Tofu().check_retain_model(rows[:300], retain_model, {}, {})
    with pytest.raises(IncompatibleError, match="Set ds_size: 300 for both"):
        Tofu().check_retain_model(rows, retain_model, {}, {})
