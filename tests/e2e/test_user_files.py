"""The example files of docs/examples through the real command line, from a folder outside the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
FILES = ["my_method.py", "my_metric.py", "my_benchmark.py", "my_audit.py"]
RECIPE = """\
name: mine
model: {scratch: {hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 16, vocab_size: 300}}
data: {name: synthetic, num_people: 5, forget_fraction: 0.4}
target: {steps: 2, lr: 1e-3, max_length: 256, warmup_steps: 0}
method: {name: ./my_method.py, ceiling: 3}
train: {steps: 1, lr: 1e-3, max_length: 256, warmup_steps: 0}
evaluate:
  benchmarks: [{name: ./my_benchmark.py, max_new_tokens: 4}]
  metrics: [./my_metric.py, rouge_1_f1]
  select: min forget_recall subject to retain_recall >= 0
  bootstrap: 20
"""


def expunge(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own, in this folder, without the hub."""
    return subprocess.run(
        [sys.executable, "-m", "expunge", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the examples and a recipe that uses them."""
    path = tmp_path_factory.mktemp("user")
    for name in FILES:
        shutil.copy(EXAMPLES / name, path / name)
    (path / "recipe.yaml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(folder) -> dict:
    """The summary of a run of the recipe."""
    done = expunge(folder, "run", "recipe.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", FILES)
def test_examples_are_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("my_method.py", ["method my_method.py", "sets: forget, retain", "ceiling  "]),
        ("my_metric.py", ["metric my_metric.py", "needs: columns answer, generation"]),
        ("my_benchmark.py", ["benchmark my_benchmark.py", "max_new_tokens", "forget_recall  Forget recall  lower"]),
        ("my_audit.py", ["audit my_audit.py", "refusal"]),
    ],
)
def test_show(folder, name, lines):
    done = expunge(folder, "show", name)
    assert done.returncode == 0, done.stderr
    for line in lines:
        assert line in done.stdout


def test_check(folder):
    done = expunge(folder, "check", "recipe.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the epoch with the lowest forget_recall" in done.stdout


def test_run_with_user_defined_method_benchmark_and_metric(folder, run):
    result = json.loads((folder / run["folder"] / "results/target-my_benchmark.json").read_text())
    rows = _rows(folder / run["folder"] / result["samples"])
    forget = [row for row in rows if row["set"] == "forget"]
    contained = [row["answer"].rstrip(" .").lower() in row["generation"].lower() for row in forget]
    value = result["metrics"]["forget/containment"]
    assert value["point"] == pytest.approx(sum(contained) / len(contained))
    assert value["n"] == len(forget)
    assert value["no_interval"] == "2 groups of rows, at least 5 are needed"
    assert {"retain/containment", "forget/rouge_1_f1", "retain/rouge_1_f1"} <= set(result["metrics"])
    assert result["labels"]["containment"]["explain"].startswith("Return whether")
    assert run["selection_rule"].startswith("the epoch with the lowest forget_recall")
    assert run["verdict"]["judgements"][0]["forgetting"]["outcome"] == "yes"
    assert run["verdict"]["sentence"].startswith("Forgotten")
    page = (folder / run["folder"] / "report.html").read_text()
    assert "Forget recall" in page
    assert "containment" in page


def test_audit_of_the_run(folder, run):
    done = expunge(folder, "audit", run["folder"], "./my_audit.py", "--set", "max_new_tokens=4", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["arms"]) == {"unlearned", "target"}
    insist = next(finding for finding in result["findings"] if finding["attempt"] == "insist")
    assert insist["after"]["target"]["n"] > 0
    assert insist["cost"]["passes"] == 1
    assert "without a retain model" in result["verdict"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned nothing. `attack` returns a list of `expunge.audits.Attempt`."),
        ("[0.5]", "returned a list with a float."),
        ("[Attempt('before', [{'id': '0', 'score': 1.0}])]", "attempt before, whose row 0 has no 'group'."),
    ],
)
def test_audit_that_returns_something_else(folder, run, returned, message):
    text = "from expunge.audits import Attempt, Audit\n\n\nclass Wrong(Audit):\n    def attack(self, arm, stage):\n"
    (folder / "wrong.py").write_text(f"{text}        return {returned}\n")
    done = expunge(folder, "audit", run["folder"], "./wrong.py")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_evaluate_a_folder_with_a_user_defined_metric(folder, run):
    words = ["--data", "synthetic", "--set", "data.num_people=5", "--set", "evaluate.metrics=[./my_metric.py]"]
    words += ["--benchmark", "./my_benchmark.py", "--set", "max_new_tokens=4"]
    done = expunge(folder, "evaluate", f"{run['folder']}/checkpoint", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["record"]["metrics"]["forget/containment"]["point"] is not None


def _rows(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()
