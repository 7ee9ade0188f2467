"""Stored evaluations: the three kinds of file, and what is refused."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.benchmarks.tofu.benchmark import Tofu
from expunge.benchmarks.tofu.stored import read_tofu_log
from expunge.commands.score_log import score_stored
from expunge.errors import DataError, IncompatibleError
from expunge.records import BenchmarkResult
from expunge.rundir import write_record


def tofu_section(first, count, num_wrong=5, shift=0.0):
    """A section whose row i is about person first + i, with losses that differ from row to row."""
    index = [str(i) for i in range(count)]
    return {
        "avg_gt_loss": {i: 0.5 for i in index},
        "avg_paraphrased_loss": {i: 1.0 + 0.01 * int(i) + shift for i in index},
        "average_perturb_loss": {i: [2.0] * num_wrong for i in index},
        "rougeL_recall": {i: 0.75 for i in index},
        "generated_text": {
            i: [f"[INST] Who is {first + int(i)}? [/INST]", "output", f"It is {first + int(i)}."] for i in index
        },
    }


def tofu_file(path, first, count, shift=0.0):
    data = {
        "eval_log.json": tofu_section(0, 40),
        "eval_real_author_wo_options.json": tofu_section(9000, 4, 3),
        "eval_real_world_wo_options.json": tofu_section(9500, 4, 3),
        "eval_log_forget.json": tofu_section(first, count, shift=shift),
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_tofu_log_is_read_in_numeric_order(tmp_path):
    log = read_tofu_log(tofu_file(tmp_path / "log.json", first=100, count=12))
    forget = [row for row in log.rows if row["set"] == "forget"]
    assert log.kind == "tofu"
    assert [row["index"] for row in forget] == list(range(12))
    assert forget[11]["answer"] == "It is 111."
    assert forget[11]["paraphrased_nll"] == pytest.approx(1.11)
    assert forget[11]["group"] == forget[0]["group"]
    assert forget[11]["generation"] == "output"
    authors = [row["group"] for row in log.rows if row["set"] == "real_authors"]
    assert len(set(authors)) == 4


def test_utility_of_a_tofu_log_closed_form(tmp_path):
    """Retain P = e^-.5, ROUGE .75, R = e^(1 + .01 i - 2); authors and facts P = 1/(1 + 3 e^-1.5)."""
    numbers = score_stored(tofu_file(tmp_path / "log.json", 100, 12), resamples=0)
    assert numbers.metrics["retain/probability"].point == pytest.approx(math.exp(-0.5))
    assert numbers.metrics["world_facts/probability"].point == pytest.approx(1 / (1 + 3 * math.exp(-1.5)))
    assert numbers.headlines["model_utility"].n == 48
    assert numbers.headlines["forget_quality"].needs.startswith("a retain model")


def test_quality_rests_on_the_rows_that_both_files_hold(tmp_path):
    """The full log holds people 100-159; the retain model 140-179: its first 20 are the log's last 20."""
    full = tofu_file(tmp_path / "full.json", 100, 60)
    retain_model = tofu_file(tmp_path / "retain.json", 140, 40, shift=5.0)
    quality = score_stored(full, retain_model, resamples=0).headlines["forget_quality"]
    assert quality.n == 20
    assert quality.extra["ks"] == 1.0
    assert "rows 40 to 59 of the 60 of full.json and 0 to 19 of the 40 of retain.json" in quality.how


def test_no_common_row_gives_no_number(tmp_path):
    full, retain_model = tofu_file(tmp_path / "full.json", 100, 20), tofu_file(tmp_path / "r.json", 300, 20)
    quality = score_stored(full, retain_model, resamples=0).headlines["forget_quality"]
    assert quality.point is None
    assert "none can be matched" in quality.needs


def test_retain_model_of_a_larger_split_gives_no_number(tmp_path):
    """A model that forgot 140-179 against one that never saw 100-159: not the same rows left out."""
    log, retain_model = tofu_file(tmp_path / "log.json", 140, 40), tofu_file(tmp_path / "r.json", 100, 60)
    quality = score_stored(log, retain_model, resamples=0).headlines["forget_quality"]
    assert quality.point is None
    assert quality.needs.startswith("a retain model of the same split")


def test_ds_size_shortens_both(tmp_path):
    log, retain_model = tofu_file(tmp_path / "log.json", 100, 30), tofu_file(tmp_path / "r.json", 100, 40)
    numbers = score_stored(log, retain_model, benchmark=Tofu(ds_size=4), resamples=0)
    assert numbers.headlines["forget_quality"].n == 4
    assert "the same 4 forget rows (" in numbers.headlines["forget_quality"].how
    assert numbers.metrics["retain/probability"].n == 4
    assert numbers.metrics["world_facts/probability"].n == 4


def open_unlearning_file(path):
    """The structure of a TOFU_EVAL.json, two rows per set, in the order that its writer gives to keys."""

    def block(**columns):
        return {
            "agg_value": 0.0,
            "value_by_index": {str(i): {key: value[i] for key, value in columns.items()} for i in range(2)},
        }

    data = {
        "forget_Q_A_PARA_Prob": block(prob=[0.1, 0.2], avg_loss=[1.0, 2.0]),
        "forget_Q_A_PERT_Prob": block(prob=[[0.1] * 5] * 2, avg_loss=[[3.0] * 5, [1.0] * 5]),
        "forget_Q_A_Prob": block(prob=[0.3, 0.4], avg_loss=[0.5, 0.25]),
        "forget_Q_A_ROUGE": block(
            rouge1_recall=[1.0, 0.5],
            rougeL_recall=[0.5, 0.25],
            input=["[INST] q0 [/INST]", "[INST] q1 [/INST]"],
            ground_truth=["a0", "a1"],
            generation=["g0", "g1"],
        ),
        "forget_quality": {"agg_value": None},
        "forget_truth_ratio": block(score=[9.0, 9.0]),
        "mia_loss": {"forget": {"agg_value": 0.0}, "auc": 1.0, "agg_value": 1.0},
        "retain_Truth_Ratio": block(score=[0.5, 0.25]),
        "wf_Q_A_Prob": block(prob=[0.1, 0.1], avg_loss=[0.7, 0.8]),
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_open_unlearning_file(tmp_path):
    log = read_tofu_log(open_unlearning_file(tmp_path / "TOFU_EVAL.json"))
    rows = {(row["set"], row["index"]): row for row in log.rows}
    assert log.kind == "open-unlearning"
    assert rows["forget", 1]["nll"] == 0.25
    assert rows["forget", 1]["rouge_l_recall"] == 0.25
    assert rows["forget", 0]["answer"] == "a0"
    assert rows["forget", 0]["truth_ratio"] == pytest.approx(math.exp(1.0 - 3.0))
    assert rows["retain", 1]["truth_ratio"] == 0.25
    assert rows["retain", 1]["nll"] is None
    assert rows["world_facts", 0]["paraphrased_nll"] == 0.7
    assert ("real_authors", 0) not in rows


def own_result(folder, rows, **settings):
    (folder / "samples").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples" / "tofu.parquet")
    record = BenchmarkResult(
        benchmark="tofu",
        role="retain",
        model="m",
        model_hash="h",
        samples="samples/tofu.parquet",
        settings=settings,
    )
    write_record(folder / "results" / "tofu.json", record)
    return folder / "results" / "tofu.json"


def test_own_result_gives_back_its_rows(tmp_path):
    source = read_tofu_log(tofu_file(tmp_path / "log.json", 100, 12))
    path = own_result(tmp_path / "run", source.rows, split="forget01")
    log = read_tofu_log(path)
    assert (log.kind, log.settings) == ("expunge", {"split": "forget01"})
    assert log.rows == source.rows
    assert Tofu().read_stored(path) == (log.rows, log.settings)
    quality = score_stored(path, tmp_path / "log.json", resamples=0).headlines["forget_quality"]
    assert quality.point == 1.0


def test_own_results_of_different_splits_are_refused(tmp_path):
    rows = read_tofu_log(tofu_file(tmp_path / "log.json", 100, 12)).rows
    first = own_result(tmp_path / "one", rows, split="forget01")
    second = own_result(tmp_path / "two", rows, split="forget05")
    with pytest.raises(IncompatibleError, match="another split: forget05, here it is forget01"):
        score_stored(first, second, resamples=0)


def test_own_result_whose_samples_are_gone_or_elsewhere(tmp_path):
    rows = read_tofu_log(tofu_file(tmp_path / "log.json", 100, 12)).rows
    path = own_result(tmp_path / "run", rows)
    samples = tmp_path / "run" / "samples" / "tofu.parquet"
    samples.write_bytes(samples.read_bytes()[:100])
    with pytest.raises(DataError, match="samples"):
        read_tofu_log(path)
    samples.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        read_tofu_log(path)
    path.write_text(path.read_text(encoding="utf-8").replace("samples/tofu", "../../tofu"), encoding="utf-8")
    with pytest.raises(DataError, match="leads out of the run folder"):
        read_tofu_log(path)
    path.write_text(path.read_text(encoding="utf-8").replace("../../tofu.parquet", ""), encoding="utf-8")
    with pytest.raises(DataError, match="without per-sample rows"):
        read_tofu_log(path)


def test_own_result_of_another_benchmark_is_refused(tmp_path):
    path = own_result(tmp_path / "run", [{"set": "bio", "index": 0, "choice": "A"}])
    with pytest.raises(DataError, match="lack answer, group, nll, question"):
        read_tofu_log(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"eval_log.json": {"avg_gt', "not complete JSON"),
        ("[1, 2]", "contains a list"),
        ('{"model_utility": 0.5, "forget_quality": 0.1}', "its keys are forget_quality, model_utility"),
        ('{"eval_log.json": {"rougeL_recall": {"0": 1.0}}}', "has no avg_gt_loss"),
        ('{"eval_log.json": {"avg_gt_loss": [1.0]}}', "avg_gt_loss is a list"),
        ('{"eval_log.json": {"avg_gt_loss": {"zero": 1.0}}}', "not numbers"),
        ('{"eval_log.json": {"avg_gt_loss": {"0": "low"}}}', "row 0: 'low' is not a number"),
    ],
)
def test_damaged_or_foreign_files_are_refused(tmp_path, content, words):
    path = tmp_path / "log.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_tofu_log(path)


def test_missing_folder_and_binary_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_tofu_log(tmp_path / "none.json")
    with pytest.raises(DataError, match="is a folder"):
        read_tofu_log(tmp_path)
    (tmp_path / "weights.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_tofu_log(tmp_path / "weights.json")


def test_nan_in_a_log_is_a_missing_row(tmp_path):
    path = tofu_file(tmp_path / "log.json", 100, 12)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["eval_log.json"]["avg_gt_loss"]["3"] = float("nan")
    path.write_text(json.dumps(data), encoding="utf-8")
    assert [row["nll"] for row in read_tofu_log(path).rows if row["set"] == "retain"][3] is None
    value = score_stored(path, resamples=0).metrics["retain/probability"]
    assert (value.n, value.n_missing) == (39, 1)
