"""Labels, axes and judgement settings of every packaged benchmark."""

import pytest
from measurements import measurement, row

from expunge import registry
from expunge.benchmarks.mt_bench.judge import Judge
from expunge.benchmarks.shared.membership import Membership
from expunge.records import Judgement

ROW = {
    "tofu": dict.fromkeys(
        (
            *("question", "answer", "generation", "nll", "paraphrased_nll", "perturbed_nll", "rouge_l_recall"),
            *("truth_ratio", "repetition", "extraction_strength", "paraphrased_probability"),
        )
    ),
    "custom": dict.fromkeys(("semantic_similarity", "generated_logp", "generation")) | {"question": "", "answer": ""},
    "mt_bench": {"rating": None, "published": False},
}
LOCAL, GPT_4 = {"model": "a-judge"}, {"model": "gpt-4", "url": "https://api.openai.com/v1"}
SETTINGS = [
    ("tofu", {"paraphrased": True}),
    ("tofu", {"sets": ["forget"], "generate": False}),
    ("wmdp", {}),
    ("wmdp", {"topics": ["bio"]}),
    ("mmlu", {}),
    ("mmlu", {"subjects": ["anatomy"]}),
    ("general", {}),
    ("general", {"tasks": ["piqa"]}),
    ("muse", {}),
    ("muse", {"parts": ["verbmem"]}),
    ("muse", {"parts": ["knowmem", "privleak"]}),
    ("custom", {}),
    ("familiarity", {}),
    ("mt_bench", {}),
    ("mt_bench", {"judge_model": Judge(**LOCAL)}),
    ("mt_bench", {"judge_model": Judge(**GPT_4)}),
]


def build(name, settings):
    """The benchmark, and the headlines of one row that could not be scored."""
    benchmark = registry.get("benchmark", name)(**settings)
    rows = [{**row("forget", 0), **ROW[name]}] if name in ROW else []
    return benchmark, benchmark.headlines(rows, None, 0, 0)


def test_every_packaged_benchmark_is_covered():
    assert {name for name, _ in SETTINGS} == set(registry.names("benchmark"))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_every_headline_has_a_label(name, settings):
    benchmark, values = build(name, settings)
    labels = benchmark.labels()
    assert set(values.headlines) <= set(labels)
    # MT-Bench's headline depends on the questions, so with the published judge both names are possible.
    assert len(labels) == len(values.headlines) + (settings.get("judge_model") == Judge(**GPT_4))
    assert all(label.title and label.explain for label in labels.values())


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_every_metric_has_a_label(name, settings):
    benchmark, values = build(name, settings)
    assert {metric.rpartition("/")[2] for metric in values.metrics} <= set(benchmark.metric_labels())


@pytest.mark.parametrize("name", ["tofu", "custom"])
def test_every_membership_metric_has_a_label(name):
    labels = registry.get("benchmark", name)().metric_labels()
    metrics = Membership([row("forget", 0)], None, 0.4, gradient_norm=True, resamples=0, seed=0).all()
    assert {metric.rpartition("/")[2] for metric in metrics} <= set(labels)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_axes_name_headlines(name, settings):
    benchmark, values = build(name, settings)
    axes = benchmark.axes()
    if axes is not None:
        assert {axes.forget, axes.utility} <= set(values.headlines)
        assert axes.forget_fallback in {"", *values.metrics}


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_judgement_settings_are_fields_that_do_not_identify_a_measurement(name, settings):
    benchmark, _ = build(name, settings)
    assert benchmark.judgement_settings <= set(type(benchmark).model_fields)
    assert not benchmark.judgement_settings & set(benchmark.measured_settings())


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_a_judgement_without_any_value_is_open(name, settings):
    benchmark, values = build(name, settings)
    judgement = benchmark.judge(None, measurement(values.headlines, values.metrics), None, seed=0)
    assert isinstance(judgement, Judgement)
    conclusions = [judgement.forgetting, judgement.utility]
    assert any(conclusions)
    assert {conclusion.outcome for conclusion in conclusions if conclusion} == {"inconclusive"}
    assert judgement.title == benchmark.title
    assert judgement.rules
    assert judgement.reasons


def test_headlines_that_need_a_retain_model():
    def needing(name, **settings):
        labels = registry.get("benchmark", name)(**settings).labels()
        return {headline for headline, label in labels.items() if label.needs_retain_model}

    assert needing("tofu") == {"forget_quality"}
    assert needing("custom") == {"privleak", "forget_agreement"}
    assert needing("muse") == {"privleak"}
    assert needing("muse", retrain_auc="news") == set()
    assert needing("wmdp") == needing("mmlu") == needing("familiarity") == set()
