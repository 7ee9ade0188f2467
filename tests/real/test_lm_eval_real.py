"""Our numbers on real questions are those of lm-eval's own command line, to the last digit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lm_eval
import pytest

import expunge
from expunge.benchmarks.mmlu import Mmlu
from expunge.benchmarks.shared.multiple_choice.tasks import GENERAL
from expunge.benchmarks.wmdp import Wmdp
from expunge.data.mcq import find_file, read_questions
from expunge.runs.evaluator import read_rows

TASKS = ["arc_easy", "winogrande"]
"""One whose choices follow the prompt, and one whose choices stand in it."""
NUM_ROWS = 60

DEFINITION = """\
include: {file}
task: local_{task}
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{validation: {data}}}}}
training_split: null
validation_split: validation
test_split: null
"""


@pytest.fixture(scope="module")
def questions(shared, tmp_path_factory):
    """The first rows of both tasks: in our layout, and in the hub's with a definition for lm-eval's command line."""
    folder = tmp_path_factory.mktemp("questions")
    for name in TASKS:
        task = GENERAL[name]
        path, split = find_file(shared / "data" / "mcq", name)
        (folder / path.name).write_text("".join(path.read_text().splitlines(keepends=True)[:NUM_ROWS]))
        rows = read_questions(folder / path.name, split, task.layout).questions
        data = folder / f"hub/{name}.json"
        data.parent.mkdir(exist_ok=True)
        data.write_text("".join(json.dumps(task.doc(row)) + "\n" for row in rows))
        original = Path(lm_eval.__file__).parent / "tasks" / task.definition
        (folder / f"hub/{name}.yaml").write_text(DEFINITION.format(file=original, task=name, data=data))
    return folder


@pytest.fixture(scope="module", params=["stories260K", "tofu-llama-4m-full"])
def both(request, shared, questions, tmp_path_factory):
    """Our result and records, and those of the command line, for one model."""
    model, out = shared / "models" / request.param, tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "16"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--include_path", str(questions / "hub")]
    command += ["--tasks", *(f"local_{name}" for name in TASKS)]
    command += ["--output_path", str(out / "theirs"), "--log_samples"]
    done = subprocess.run(
        command,
        env={**os.environ, "HF_HOME": str(out / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(next((out / "theirs").rglob("results_*.json")).read_text())
    samples = {
        name: [json.loads(line) for line in next((out / "theirs").rglob(f"samples_local_{name}_*.jsonl")).open()]
        for name in TASKS
    }
    benchmark = {"name": "general", "data": str(questions), "tasks": TASKS, "batch_size": 16}
    ours = expunge.evaluate({"model": model, "benchmark": benchmark}, out=out / "ours")
    return ours, read_rows(out / "ours" / ours.samples), theirs, samples


def test_numbers(both):
    ours, _, theirs, _ = both
    for name in TASKS:
        assert ours.headlines[name].point == theirs["results"][f"local_{name}"]["acc,none"]
        assert ours.headlines[name].n == NUM_ROWS
    assert ours.metrics["arc_easy/acc_norm"].point == theirs["results"]["local_arc_easy"]["acc_norm,none"]


def test_every_question(both):
    """The same prompts by their hashes, and the same log-likelihoods to the last bit."""
    _, rows, theirs, samples = both
    for name in TASKS:
        mine = [row for row in rows if row["set"] == name]
        other = sorted(samples[name], key=lambda sample: sample["doc_id"])
        assert [row["prompt_hash"] for row in mine] == [sample["prompt_hash"] for sample in other]
        assert [row["logp"] for row in mine] == [[float(answer[0]) for answer in s["filtered_resps"]] for s in other]
        assert [row["correct"] for row in mine] == [bool(sample["acc"]) for sample in other]
        assert {row["task_hash"] for row in mine} == {theirs["task_hashes"][f"local_{name}"]}


def test_all_shared_questions_are_read(shared):
    """Every file passes the checks; 14,042 is the size of MMLU's test split."""
    folder = str(shared / "data" / "mcq")
    rows = [local.file.questions for local in Mmlu(data=folder)._local().values()]
    assert (len(rows), sum(map(len, rows))) == (57, 14042)
    sizes = {}
    for name, task in GENERAL.items():
        sizes[name] = len(read_questions(*find_file(Path(folder), name), task.layout).questions)
    assert sizes == {
        "arc_challenge": 299,
        "arc_easy": 570,
        "boolq": 3270,
        "hellaswag": 1000,
        "openbookqa": 500,
        "piqa": 1838,
        "winogrande": 1267,
    }


def test_wmdp_in_its_layout(shared, tmp_path):
    """MMLU's computer security stands in for WMDP's cybersecurity: both have question, choices and answer."""
    source = shared / "data" / "mcq" / "mmlu" / "computer_security_test.jsonl"
    (tmp_path / "wmdp").mkdir()
    (tmp_path / "wmdp/cyber_test.jsonl").write_text("".join(source.read_text().splitlines(keepends=True)[:20]))
    settings = {"data": str(tmp_path), "topics": ["cyber"]}
    config = {"model": shared / "models" / "stories260K", "benchmark": {"name": "wmdp", **settings}}
    result = expunge.evaluate(config, out=tmp_path / "out")
    accuracy, error = result.headlines["wmdp_cyber"], result.headlines["wmdp_cyber_error"]
    assert accuracy.n + accuracy.n_missing == 20
    assert accuracy.point + error.point == 1
    assert not any(row["question"] or row["choices"] for row in read_rows(tmp_path / "out" / result.samples))
    assert Wmdp(**settings).plan(None).facts["tasks"]["wmdp_cyber"]["rows"] == 20
