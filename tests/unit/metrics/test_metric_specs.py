"""Every metric is registered by name and has a description."""

from __future__ import annotations

import subprocess
import sys

import pytest

from expunge import registry
from expunge.metrics.base import MetricSpec

METRICS = [
    "distinct_n",
    "exact_memorization",
    "extraction_strength",
    "familiarity_completion",
    "forget_quality",
    "knowledge_memorization",
    "membership_auc",
    "membership_gradient_norm",
    "membership_loss",
    "membership_min_k",
    "membership_min_k_plus",
    "membership_reference",
    "membership_tpr",
    "membership_zlib",
    "model_utility",
    "option_probability",
    "perplexity",
    "privleak",
    "probability",
    "repetition",
    "rouge_1_f1",
    "rouge_1_recall",
    "rouge_l_f1",
    "rouge_l_recall",
    "semantic_similarity",
    "truth_probability",
    "truth_ratio",
    "truth_ratio_forget",
    "truth_ratio_utility",
    "verbatim_memorization",
]


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_registered_with_its_spec(name):
    assert name in registry.names("metric")
    spec = registry.get("metric", name).spec
    assert isinstance(spec, MetricSpec)
    assert spec.name == name
    assert spec.range[0] < spec.range[1]
    assert registry.summary("metric", name).endswith((".", ":", "?"))


def test_metrics_do_not_import_torch():
    """Metrics and the headlines of a benchmark can be computed without torch installed."""
    code = "import sys, expunge.benchmarks.tofu.stored; sys.exit(bool({'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
