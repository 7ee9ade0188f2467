"""Two processes give the numbers of one: the real command under torchrun, on CPUs (gloo)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

import expunge
from expunge.runs.evaluator import read_rows

RECIPE = """\
name: tiny
seed: 0
model:
  scratch: {hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 64, vocab_size: 600, max_length: 96}
  device: cpu
data: {name: synthetic, num_people: 4, forget_fraction: 0.25}
target: {steps: 4, lr: 5e-3, batch_size: 16, device_batch_size: 16, max_length: 96}
method: {name: npo}
train: {epochs: 1, lr: 1e-4, batch_size: 5, device_batch_size: 5, max_length: 96, warmup_epochs: 0}
evaluate:
  benchmarks: [{name: tofu, max_new_tokens: 4, ds_size: 7}]
  bootstrap: 0
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Run folders of one process and of two, which start from the same target. 5 rows are shared as 3 and 2."""
    place = tmp_path_factory.mktemp("processes")
    (place / "tiny.yaml").write_text(RECIPE)
    summary = expunge.run(place / "tiny.yaml", runs=place / "one")
    shutil.copytree(place / "one/shared", place / "two/shared", ignore=shutil.ignore_patterns("evaluations"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "expunge"]
    done = subprocess.run(
        [*command, "run", str(place / "tiny.yaml"), "--runs", str(place / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1
    folder = Path(summary.folder)
    return folder, place / "two" / folder.name


def test_weights(folders):
    one, two = (load_file(folder / "checkpoint/model.safetensors") for folder in folders)
    start = load_file(next(folders[0].parent.glob("shared/model-*/model/model.safetensors")))
    assert any(float((one[name] - start[name]).abs().max()) > 1e-4 for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)


def test_training_log(folders):
    one, two = (tiny.log_lines(folder / "train.jsonl") for folder in folders)
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    for line, other in zip(one, two, strict=True):
        assert other["terms"] == pytest.approx(line["terms"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
        assert (other["lr"], other["num_tokens"]) == (line["lr"], line["num_tokens"])


def test_sharded_evaluation(folders):
    """Every row once, in order, with the same answers and numbers, for the target (before) and for the result."""
    for name in ("target-tofu", "unlearned-tofu-000004"):
        one, two = (read_rows(folder / f"samples/{name}.parquet") for folder in folders)
        assert len(one) == len(two) > 14
        for row, other in zip(one, two, strict=True):
            assert other.keys() == row.keys()
            for key, value in row.items():
                numbers = isinstance(value, float | list)
                # Divided by a standard deviation, which of a sure prediction is small and mostly rounding.
                relative = 1e-3 if key == "min_k_plus" else 1e-4
                assert other[key] == (pytest.approx(value, rel=relative, abs=1e-6) if numbers else value), key
