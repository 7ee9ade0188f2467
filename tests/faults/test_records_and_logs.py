"""Records, run folders and stored evaluations of another version, cut, or made to lead elsewhere."""

import json
import math
import os
import shutil

import pytest
import yaml
from tests.faults.conftest import snapshot

from expunge.benchmarks.tofu.stored import read_tofu_log
from expunge.records import AuditResult, Battery, BenchmarkResult, Manifest, RunSummary, Stage, Value
from expunge.report.load import load_run, read_samples
from expunge.rundir import RunDir, read_record, write_record
from expunge.runs.results import read_rows

STAGE = {"schema_version": 2, "name": "target", "fingerprint": "abc", "output": {}}


def changed(**values) -> str:
    return json.dumps({**STAGE, **values})


BROKEN = {
    "empty": ("", "not complete JSON"),
    "cut": (json.dumps(STAGE)[:30], "not complete JSON"),
    "word": ("hello", "not complete JSON"),
    "HTML": ("<html>", "not complete JSON"),
    "null": ("null", "Stage"),
    "list": ("[]", "Stage"),
    "number": ("3", "Stage"),
    "empty object": ("{}", "name"),
    "older version": (changed(schema_version=1), "another version"),
    "newer version": (changed(schema_version=99), "another version"),
    "negative version": (changed(schema_version=-1), "another version"),
    "true as version": (changed(schema_version=True), "another version"),
    "word as version": (changed(schema_version="two"), "schema_version"),
    "null as version": (changed(schema_version=None), "schema_version"),
    "list as version": (changed(schema_version=[2]), "schema_version"),
    "missing field": (json.dumps({"schema_version": 2, "name": "target"}), "fingerprint"),
    "unknown field": (changed(extra=1), "extra"),
    "number as name": (changed(name=3), "name"),
    "null as name": (changed(name=None), "name"),
    "list as output": (changed(output=[]), "output"),
    "word as seconds": (changed(seconds="long"), "seconds"),
    "huge number": (changed(peak_bytes=1).replace("1}", "9" * 5000 + "}"), "invalid number"),
    "deep": ('{"output": ' + "[" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000, "nested too deeply"),
    "Latin-1": ('{"name": "Zürich"}'.encode("latin-1"), "not UTF-8"),
    "UTF-16": (json.dumps(STAGE).encode("utf-16"), "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(STAGE).encode(), "not complete JSON"),
    "NUL bytes": (bytes(100), "not complete JSON"),
    "pickle": (b"\x80\x04\x95\x00.", "not UTF-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_record(name, tmp_path, refused):
    content, words = BROKEN[name]
    path = tmp_path / "target.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: read_record(path, Stage), str(path), words)


@pytest.mark.parametrize("kind", [AuditResult, Battery, BenchmarkResult, Manifest, RunSummary])
def test_record_of_another_kind(kind, tmp_path, refused):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(STAGE))
    refused(lambda: read_record(path, kind), str(path), kind.__name__)


def make_loop(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    "make", [os.mkdir, os.mkfifo, make_loop, lambda path: None], ids=["folder", "pipe", "loop", "none"]
)
@pytest.mark.parametrize("read", [lambda path: read_record(path, Stage), read_tofu_log], ids=["record", "log"])
def test_record_that_is_no_file(make, read, tmp_path, refused):
    path = tmp_path / "record.json"
    make(path)
    refused(lambda: read(path), str(path))


def tofu_section(**values):
    index = ["0", "1"]
    return {
        "avg_gt_loss": dict.fromkeys(index, 0.5),
        "avg_paraphrased_loss": dict.fromkeys(index, 1.0),
        "average_perturb_loss": {key: [2.0, 2.0] for key in index},
        "rougeL_recall": dict.fromkeys(index, 0.75),
        "generated_text": {key: ["[INST] q [/INST]", "output", "answer"] for key in index},
        **values,
    }


def tofu_log(**values):
    return {"eval_log_forget.json": tofu_section(**values), "eval_log.json": tofu_section()}


LOGS = {
    "empty object": ({}, "its keys are none"),
    "other keys": ({"accuracy": 1}, "accuracy"),
    "list": ([1], "a list"),
    "word": ("word", "a str"),
    "null": (None, "NoneType"),
    "section is a list": ({"eval_log_forget.json": []}, ""),
    "section is null": ({"eval_log_forget.json": None}, ""),
    "section is empty": ({"eval_log_forget.json": {}}, ""),
    "losses are a list": (tofu_log(avg_gt_loss=[0.5]), ""),
    "losses are words": (tofu_log(avg_gt_loss={"0": "low", "1": "high"}), ""),
    "losses are lists": (tofu_log(avg_gt_loss={"0": [1], "1": [2]}), ""),
    "losses are null": (tofu_log(avg_gt_loss=None), ""),
    "rows are words": (tofu_log(avg_gt_loss={"first": 0.5}), ""),
    "texts are numbers": (tofu_log(generated_text={"0": 1, "1": 2}), ""),
    "texts are objects": (tofu_log(generated_text={"0": [{}, {}, {}]}), "row 0"),
    "huge loss": (tofu_log(avg_gt_loss={"0": 10**400}), "too large"),
    "row of another digit": (tofu_log(avg_gt_loss={"²": 0.5}), "not numbers"),
    "row of 5,000 digits": (tofu_log(avg_gt_loss={"9" * 5000: 0.5}), "not numbers"),
    "texts are short": (tofu_log(generated_text={"0": ["q"], "1": []}), ""),
    "own result cut": ({"benchmark": "tofu", "headlines": {}}, "BenchmarkResult"),
    "own result of words": ({"benchmark": 3, "headlines": 4, "schema_version": 2}, "BenchmarkResult"),
    "other log without values": ({"forget_truth_ratio": {}}, ""),
    "other log of words": ({"forget_truth_ratio": "high", "forget_Q_A_Prob": "low"}, ""),
    "other log of lists": ({"forget_truth_ratio": {"value_by_index": [1]}}, ""),
}


@pytest.mark.parametrize("name", LOGS)
def test_malformed_log(name, tmp_path, refused):
    content, words = LOGS[name]
    path = tmp_path / "log.json"
    path.write_text(json.dumps(content))
    refused(lambda: read_tofu_log(path), str(path), words)


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: mine\nmethod: {name: npo}\n")
    write_record(folder / "stages/target.json", Stage.model_validate(STAGE))
    return folder


RECIPES = {
    "alias bomb": "a: &a [x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)),
    "object": "name: !!python/object:os.system {}\n",
    "list": "- name\n",
    "duplicate": "name: a\nname: b\n",
    "cut": "name: {a",
    "method is a word": "name: a\nmethod: npo\n",
    "data is a list": "name: a\ndata: [1]\n",
    "model is null": "name: a\nmodel: null\n",
    "evaluate is a number": "name: a\nevaluate: 3\n",
    "wrong date": "name: 2001-99-99\n",
    "empty": "",
}


@pytest.mark.parametrize("name", RECIPES)
def test_malformed_recipe_of_a_run(name, run_folder, refused):
    path = run_folder / "recipe.yaml"
    path.write_text(RECIPES[name])
    refused(lambda: load_run(run_folder), str(path))


LINES = {
    "word in the middle": b"hello\n{}\n",
    "list in the middle": b"[]\n{}\n",
    "other fields": b'{"loss": 1}\n{}\n',
    "bytes": b"\xff\xfe\n{}\n",
    "deep": b"[" * 100_000 + b"\n{}\n",
}


@pytest.mark.parametrize("name", LINES)
def test_malformed_training_log(name, run_folder, refused):
    path = run_folder / "train.jsonl"
    path.write_bytes(LINES[name])
    refused(lambda: load_run(run_folder), str(path), "line 1")


def test_cut_last_line_of_a_training_log_is_ignored(run_folder):
    (run_folder / "train.jsonl").write_text('{"step": 1, "epoch": 1, "loss": 1, "lr": 1}\n{"step": 2, "ep')
    assert [point.step for point in load_run(run_folder).train] == [1]


@pytest.mark.parametrize("name", ["../secret.parquet", "/etc/passwd", "samples/../../x", "link.parquet"])
def test_samples_outside_the_run_folder(name, run_folder, refused):
    (run_folder / "link.parquet").symlink_to("/etc/passwd")
    refused(lambda: read_samples(run_folder, name), str(run_folder))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 4, b"text", bytes(1000)], ids=range(5))
@pytest.mark.parametrize(
    "read", [lambda folder: read_samples(folder, "a.parquet"), lambda folder: read_rows(folder / "a.parquet")]
)
def test_malformed_samples(content, read, run_folder, refused):
    (run_folder / "a.parquet").write_bytes(content)
    refused(lambda: read(run_folder), "a.parquet")


def test_values_of_records_survive(tmp_path):
    """A record that is written and read is equal to itself, also with NaN, infinity and unusual texts."""
    output = {
        "text": "\x1b[31m\x00\u202e👩‍👩‍👧",
        "none": None,
        "list": [1, {"a": [True]}],
        "float": 0.1 + 0.2,
        "big": 2**60,
    }
    stage = Stage(name="<b>", fingerprint="'\"\\", output=output)
    write_record(tmp_path / "a.json", stage)
    assert read_record(tmp_path / "a.json", Stage) == stage
    number = Value(point=1.0, extra={"ks": math.inf})
    write_record(tmp_path / "b.json", number)
    assert read_record(tmp_path / "b.json", Value).point == 1.0


def test_report_of_a_malformed_run_folder(cli, run_folder):
    (run_folder / "stages/target.json").write_text(changed(schema_version=1))
    before = snapshot(run_folder)
    outcome = cli("report", run_folder)
    assert outcome.code == 2
    assert "another version" in outcome.err
    assert "Traceback" not in outcome.err
    assert snapshot(run_folder) == before


def test_link_out_of_a_run_folder_is_not_followed(run_folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (run_folder / "samples").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out"):
        RunDir(run_folder) / "samples/a.parquet"


def test_copied_run_folder_is_read_from_its_new_place(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "copy")
    assert load_run(tmp_path / "copy").recipe == yaml.safe_load((run_folder / "recipe.yaml").read_text())
