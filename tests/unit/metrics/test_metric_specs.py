"""Every metric is found by name and says what its number means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from expunge import registry
from expunge.metrics._base import MetricSpec

OURS = [
    "forget_quality",
    "model_utility",
    "option_probability",
    "probability",
    "rouge_1_recall",
    "rouge_l_recall",
    "truth_ratio",
    "truth_ratio_forget",
    "truth_ratio_utility",
]


@pytest.mark.parametrize("name", OURS)
def test_metric_is_registered_with_its_spec(name):
    assert name in registry.names("metric")
    spec = registry.get("metric", name).spec
    assert isinstance(spec, MetricSpec)
    assert spec.name == name
    assert spec.range[0] < spec.range[1]
    assert registry.summary("metric", name).endswith((".", ":", "?"))


def test_metrics_do_not_import_torch():
    """Metrics and the benchmark's arithmetic work on a machine without torch."""
    code = "import sys, expunge.benchmarks._tofu_logs; sys.exit(bool({'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
