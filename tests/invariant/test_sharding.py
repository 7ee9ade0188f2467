"""FSDP2 on two processes gives the results of one process: the real trainer under torchrun, on CPUs (gloo)."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded
import tiny
import torch
from safetensors.torch import load_file

from expunge.modeling.load import model_hash
from expunge.training.trainer import train

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
TRAINED = {"rmu": 2, "rmu-checkpointing": 2, "lora": 28}
"""Number of trained tensors, if not all are trained."""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Folder with the weights and the log of each training on two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.run(
        [*command, sharded.__file__, str(folder)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return folder


@pytest.mark.parametrize("name", sharded.CASES)
def test_trainings_equal_those_of_one_process(tmp_path, two, name):
    """Compare losses, gradient norms and rates of each step, and the weights after three steps of AdamW.

    The tolerance for weights is a twentieth of one step, since AdamW amplifies rounding of gradients near zero.
    """
    job = sharded.job(tmp_path, **sharded.CASES[name])
    start = {key: value.detach().clone() for key, value in job.model.named_parameters()}
    train(job)
    weights, others = dict(job.model.named_parameters()), load_file(two / name / "weights")
    changed = [key for key, value in weights.items() if not torch.equal(value, start[key])]
    assert len(changed) == TRAINED.get(name, len(start))
    assert others.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value.detach(), rtol=0, atol=5e-5, msg=key)
    lines = tiny.log_lines(tmp_path / "train.jsonl")
    assert len(lines) == sharded.STEPS
    for line, other in zip(lines, tiny.log_lines(two / name / "train.jsonl"), strict=True):
        assert other["terms"] == pytest.approx(line["terms"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
        assert (other["lr"], other["num_tokens"]) == (line["lr"], line["num_tokens"])


@pytest.mark.parametrize("name", sharded.LOW)
def test_trainings_in_bfloat16_equal_those_of_one_process(tmp_path, two, name):
    """Losses and gradient norms agree up to bfloat16's rounding (2^-8), which depends on the micro-batches."""
    train(dataclasses.replace(sharded.job(tmp_path, **sharded.LOW[name]), bf16=True))
    lines, others = (tiny.log_lines(folder / "train.jsonl") for folder in (tmp_path, two / f"{name}-low"))
    if name in sharded.CASES:
        assert lines[0]["loss"] != tiny.log_lines(two / name / "train.jsonl")[0]["loss"]
    for line, other in zip(lines, others, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=4e-3)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=2e-2)


@pytest.mark.parametrize("name", sharded.CASES)
def test_every_process_measures_the_same_weights(two, name):
    """Both processes compute the same hash in each of two measurements, whose weights differ."""
    one, other = ((two / name / f"hashes-{rank}").read_text().splitlines() for rank in (0, 1))
    assert one == other
    assert [line.split()[0] for line in one] == ["2", "3"]
    assert one[0].split()[1] != one[1].split()[1]


@pytest.fixture
def measured(two) -> list[dict]:
    """Records of both processes about an untrained model."""
    return [json.loads((two / f"measured-{rank}.json").read_text()) for rank in (0, 1)]


def test_measurements_equal_those_of_an_unsharded_model(measured):
    """One process has more work, while the other runs dummy passes."""
    expected = sharded.answers(tiny.model())
    for record in measured:
        assert record["written"] == expected["written"]
        for name in ("logp", "variance"):
            for one, other in zip(expected[name], record[name], strict=True):
                assert other == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_a_sharded_model_is_saved_bit_for_bit(two, measured):
    model = tiny.model()
    assert [record["hash"] for record in measured] == [model_hash(model)] * 2
    saved = load_file(two / "saved/model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(saved[name], value), name
    assert json.loads((two / "saved/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_no_process_gathers_more_than_one_layer_and_the_root(measured):
    """Loading gathers one layer, or everything outside of layers; running gathers both; afterwards none is left."""
    model = tiny.model()
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    outside = sum(p.numel() for p in model.parameters()) - 2 * layer
    for record in measured:
        assert record["while_loading"] == [layer, layer, outside]
        assert max(record["while_running"]) == layer + outside
        assert record["afterwards"] == 0


def test_resumed_equals_uninterrupted_bit_for_bit(two):
    """The training was stopped after two of three steps and resumed from a sharded state."""
    for key, value in load_file(two / "npo/weights").items():
        assert torch.equal(load_file(two / "resumed/weights")[key], value)
    assert tiny.log_lines(two / "resumed/train.jsonl") == tiny.log_lines(two / "npo/train.jsonl")


def test_micro_batches_have_several_chunks(two):
    """Precondition of the tests above: each micro-batch has more answer tokens than a chunk, on both processes."""
    plan = sharded.job(two, sharded.NPO()).plan
    assert min(sum(batch.labels.size for batch in plan[i]["batches"].values()) for i in range(len(plan))) > 4
    assert json.loads((two / "npo/train.jsonl").read_text().splitlines()[0])["loss"] > 1
