"""Whole runs: from a recipe to a report, stopped with Ctrl-C, continued, refused, and gone wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from expunge.records import BenchmarkResult, Manifest, RunSummary, TrainPoint
from expunge.rundir import read_record
from expunge.runs.evaluator import read_rows

# The quickstart with four people, one layer and a few steps.
SMALL = """\
model.scratch={hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 64, vocab_size: 600, max_length: 96}
model.device=cpu
data={name: synthetic, num_people: 4, forget_fraction: 0.25}
target={steps: 6, lr: 5e-3, batch_size: 16, device_batch_size: 16, max_length: 96}
retain_model={steps: 6, lr: 5e-3, batch_size: 16, device_batch_size: 16, max_length: 96}
train={epochs: 8, lr: 1e-3, batch_size: 4, device_batch_size: 2, max_length: 96}
evaluate.benchmarks=[{name: tofu, max_new_tokens: 4, ds_size: 4}]
evaluate.bootstrap=20
""".splitlines()


def start(folder: Path) -> "subprocess.Popen[str]":
    """The command of a user, in a folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "expunge", "quickstart", *SMALL],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(process: "subprocess.Popen[str]", folder: Path, steps: int) -> Path:
    """Wait until the unlearning has written that many steps; returns the run's folder."""
    for _ in range(12000):
        for log in folder.glob("runs/quickstart-*/train.jsonl"):
            if len(log.read_text().splitlines()) >= steps:
                return log.parent
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("it never came to training")


def log_lines(run: Path) -> list[dict]:
    points = [TrainPoint.model_validate_json(line) for line in (run / "train.jsonl").read_text().splitlines()]
    return [point.model_dump(exclude={"seconds"}) for point in points]


@pytest.fixture(scope="module")
def stopped_and_finished(tmp_path_factory):
    """The quickstart, stopped by Ctrl-C after some steps, and the same command again."""
    folder = tmp_path_factory.mktemp("stopped")
    first = start(folder)
    run = wait_for_steps(first, folder, 7)
    first.send_signal(signal.SIGINT)
    first_words = first.communicate(timeout=300)
    num_lines = len(log_lines(run))
    finished = (run / "report.html").exists()
    second = start(folder)
    second_words = second.communicate(timeout=300)
    return run, (first.returncode, *first_words), num_lines, finished, (second.returncode, *second_words)


def test_ctrl_c_says_how_to_go_on(stopped_and_finished):
    _, (code, out, err), num_lines, finished, _ = stopped_and_finished
    assert code == 130, err
    assert out == ""
    assert "Stopping at the next safe point" in err
    assert "repeat the same command to continue" in err
    assert "Traceback" not in err
    assert 7 <= num_lines < 40
    assert not finished


def test_the_same_command_finishes(stopped_and_finished):
    """The second call trains neither target nor retain model again and goes on in the middle."""
    run, _, _, _, (code, out, err) = stopped_and_finished
    assert code == 0, err
    assert "Training the" not in err
    assert "Epoch 1:" not in err
    assert f"Report: {Path('runs') / run.name / 'report.html'}" in out


def test_everything_is_there_and_can_be_read(stopped_and_finished):
    run = stopped_and_finished[0]
    summary = read_record(run / "summary.json", RunSummary)
    manifest = read_record(run / "manifest.json", Manifest)
    assert manifest.fingerprint in run.name
    assert [stage.name for stage in manifest.stages] == ["prepare", "target", "retain", "evaluate-target", "unlearn"]
    assert manifest.num_rows["forget"] == 20
    assert set(summary.headlines) == {"target", "retain", "unlearned"}
    assert summary.headlines["unlearned"]["forget_quality"].point is not None
    results = [read_record(path, BenchmarkResult) for path in sorted((run / "results").glob("*.json"))]
    assert sorted(result.step for result in results if result.role == "unlearned") == [5, 10, 15, 20, 25, 30, 35, 40]
    assert all(len(read_rows(run / result.samples)) > 4 for result in results)
    assert [line["step"] for line in log_lines(run)] == list(range(1, 41))
    assert load_file(run / "checkpoint/model.safetensors")
    assert (run / "checkpoint/README.md").read_text().startswith("---")
    html = (run / "report.html").read_text()
    assert summary.verdict.sentence.split(":")[0] in html
    assert not (run / "state").exists()
    assert not (run / "best").exists()


def test_nothing_to_do_the_second_time(stopped_and_finished, cli, monkeypatch):
    run = stopped_and_finished[0]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    monkeypatch.chdir(run.parent.parent)
    outcome = cli("quickstart", *SMALL, "--json")
    assert outcome.code == 0, outcome.err
    assert "Nothing to do" in outcome.err
    assert json.loads(outcome.out)["folder"] == f"runs/{run.name}"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_stopped_and_continued_equals_uninterrupted(stopped_and_finished, cli, tmp_path, monkeypatch):
    """The same recipe in one go: equal weights to the last bit, equal log but for the seconds, equal headlines."""
    run = stopped_and_finished[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcome = cli("quickstart", *SMALL, "--json")
    assert outcome.code == 0, outcome.err
    (alone,) = tmp_path.glob("runs/quickstart-*")
    assert alone.name == run.name
    weights, expected = (load_file(folder / "checkpoint/model.safetensors") for folder in (run, alone))
    assert all((weights[name] == expected[name]).all() for name in expected)
    assert log_lines(run) == log_lines(alone)
    assert (
        read_record(run / "summary.json", RunSummary).headlines
        == read_record(alone / "summary.json", RunSummary).headlines
    )


def test_a_loss_that_explodes(cli, tmp_path):
    """The first step throws the weights out of all range; a later one stops, names its rows, and leaves no result."""
    words = [word for word in SMALL if not word.startswith(("train=", "retain_model="))]
    train = "train={steps: 4, lr: 1e37, batch_size: 4, warmup_epochs: 0, max_length: 96, checkpoint_epochs: 0.2}"
    outcome = cli("quickstart", *words, train, "retain_model=null", "evaluate={benchmarks: [], before: false}")
    assert outcome.code == 2
    step = int(outcome.err.split("the loss of step ")[1].split(" is not finite")[0])
    assert step in {2, 3}
    assert "person/" in outcome.err
    assert "Lower the learning rate" in outcome.err
    (run,) = tmp_path.glob("runs/quickstart-*")
    assert f"The last good state is runs/{run.name}/state/checkpoint-{step - 1}" in " ".join(outcome.err.split())
    failed = json.loads((run / "failed_batch.json").read_text())
    assert failed["step"] == step
    assert len(failed["rows"]["forget"]) == 4
    assert not (run / "checkpoint").exists()
    assert not (run / "report.html").exists()


def test_retain_model_of_other_data(cli, stopped_and_finished, tmp_path):
    """A stored retain model of these four people beside a run on four others is refused, not compared."""
    run = stopped_and_finished[0]
    (target, *_) = sorted(run.parent.glob("shared/model-*/model"))
    words = [word for word in SMALL if not word.startswith(("train=", "retain_model=", "target=", "model", "data"))]
    data = "data={name: synthetic, num_people: 4, forget_fraction: 0.25, seed: 1}"
    model = f"model={{name: {target}, device: cpu, retain_model: {run / 'results/retain-tofu.json'}}}"
    train = "train={steps: 1, lr: 1e-3, max_length: 96}"
    outcome = cli("quickstart", *words, data, model, train, "retain_model=null", "target=null")
    assert outcome.code == 2
    assert "retain" in outcome.err
    assert not list(tmp_path.glob("runs/quickstart-*/checkpoint"))


def rows(tmp_path: Path, name: str, *lines: dict) -> None:
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_forget_set_inside_the_retain_set(cli, recipe_file, tmp_path):
    (tmp_path / "retain.jsonl").write_text((tmp_path / "forget.jsonl").read_text())
    outcome = cli("run", recipe_file)
    assert outcome.code == 2
    assert "every forget row" in outcome.err
    assert "nothing can be forgotten" in outcome.err


def test_empty_forget_set(cli, recipe_file, tmp_path):
    rows(tmp_path, "forget")
    outcome = cli("run", recipe_file)
    assert outcome.code == 2
    assert "forget.jsonl" in outcome.err or "forget set" in outcome.err


def test_row_without_an_answer(cli, recipe_file, tmp_path):
    rows(tmp_path, "forget", {"question": "Where?", "answer": "Here."}, {"question": "Who?", "answer": " "})
    outcome = cli("run", recipe_file)
    assert outcome.code == 2
    assert "no answer" in outcome.err
    assert "row 1" in outcome.err or "line 2" in outcome.err


@pytest.mark.parametrize(
    ("max_length", "expected"), [(64, "the longest allowed is 64"), (512, "the model's context is {context}")]
)
def test_row_longer_than_the_context(cli, recipe_file, tiny_model, tmp_path, max_length, expected):
    """Whether the recipe's limit or the model's context is the smaller one, the row is named."""
    context = json.loads((tiny_model / "config.json").read_text())["max_position_embeddings"]
    assert 64 < context < 512
    rows(tmp_path, "forget", {"question": "Where?", "answer": "Far, far away. " * 12})
    outcome = cli("run", recipe_file, f"train.max_length={max_length}")
    assert outcome.code == 2
    assert "forget/0" in outcome.err
    assert expected.format(context=context) in outcome.err


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_runs_folder_without_permission(cli, recipe_file, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    outcome = cli("run", recipe_file, "--runs", "locked/runs")
    assert outcome.code == 2
    assert "permission is denied" in outcome.err


def test_the_start_models_copy_has_the_precision_that_the_recipe_says(cli, recipe_file):
    """KL from an equal copy is 0 in the first step; from one that is rounded to bfloat16 it is not."""
    method, found = "method={name: graddiff, retain: kl, kl_positions: all}", []
    for dtype in ("float32", "bfloat16"):
        outcome = cli("run", recipe_file, method, "model.device=cpu", f"model.frozen_dtype={dtype}")
        assert outcome.code == 0, outcome.err
        logs = {log: json.loads(log.read_text().splitlines()[0]) for log in Path("runs").glob("mine-*/train.jsonl")}
        found.append({log: line["terms"]["retain"] for log, line in logs.items()})
    (exact,) = found[0].values()
    (rounded,) = (value for log, value in found[1].items() if log not in found[0])
    assert abs(exact) < 1e-9
    assert rounded > 1e-8, "the small model's logits are small, and so is what rounding them does"
