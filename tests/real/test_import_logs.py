"""`expunge import` on the TOFU authors' logs: the values of `score-log`, and logs in OpenUnlearning's format."""

from __future__ import annotations

import json

import pytest

from expunge.benchmarks.tofu.stored import read_tofu_log
from expunge.commands.openunlearning.logs import import_log
from expunge.commands.score_log import score_log


@pytest.fixture
def log(shared):
    return lambda name: shared / "data" / "tofu_eval_logs" / f"llama2-7b_{name}.json"


def test_log_of_the_authors(log):
    imported = import_log(log("full"), log("retain90"))
    expected = score_log(log("full"), log("retain90"))
    assert imported.result.headlines == expected.headlines
    assert imported.result.headlines["forget_quality"].point < 1e-10
    assert imported.unknown == []


def test_same_rows_in_the_format_of_openunlearning(log, tmp_path):
    """The authors' rows, written as a TOFU_EVAL.json, give the same model utility and forget quality."""
    paths = []
    for name in ("full", "retain90"):
        data = {}
        for row in read_tofu_log(log(name)).rows:
            prefix = {"real_authors": "ra", "world_facts": "wf"}.get(row["set"], row["set"])
            columns = {
                "Q_A_Prob": {"avg_loss": row["nll"]},
                "Q_A_PARA_Prob": {"avg_loss": row["paraphrased_nll"]},
                "Q_A_PERT_Prob": {"avg_loss": row["perturbed_nll"]},
                "Q_A_ROUGE": {"rougeL_recall": row["rouge_l_recall"], "rouge1_recall": row["rouge_1_recall"]},
            }
            for key, entry in columns.items():
                block = data.setdefault(f"{prefix}_{key}", {"agg_value": None, "value_by_index": {}})
                block["value_by_index"][str(row["index"])] = entry
        paths.append(tmp_path / name / "TOFU_EVAL.json")
        paths[-1].parent.mkdir()
        paths[-1].write_text(json.dumps(data))
    imported = import_log(*paths)
    expected = score_log(log("full"), log("retain90"))
    quality, utility = (imported.result.headlines[name].point for name in ("forget_quality", "model_utility"))
    assert quality == pytest.approx(expected.headlines["forget_quality"].point, rel=1e-9)
    # The authors measured the right answers of real authors and world facts twice, to rounding in half precision.
    assert utility == pytest.approx(expected.headlines["model_utility"].point, rel=2e-4)
