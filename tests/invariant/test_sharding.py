"""FSDP2 on two processes gives the numbers of one: the real trainer under torchrun, on CPUs (gloo)."""

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
"""Tensors that differ from the start, where not all do."""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Where two processes left every training's weights and log."""
    place = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, sharded.__file__, str(place)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("name", sharded.CASES)
def test_as_one_process(tmp_path, two, name):
    """Losses, gradient norms and rates of each step, and the weights after three steps of AdamW.

    The bound on weights is a twentieth of one step: rounding in an entry of the gradient near zero can show.
    """
    made = sharded.job(tmp_path, **sharded.CASES[name])
    start = {key: value.detach().clone() for key, value in made.model.named_parameters()}
    train(made)
    weights, others = dict(made.model.named_parameters()), load_file(two / name / "weights")
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
def test_as_one_process_in_bfloat16(tmp_path, two, name):
    """Losses and gradient norms to bfloat16's rounding (2^-8), which depends on which rows share a micro-batch."""
    train(dataclasses.replace(sharded.job(tmp_path, **sharded.LOW[name]), bf16=True))
    lines, others = (tiny.log_lines(folder / "train.jsonl") for folder in (tmp_path, two / f"{name}-low"))
    if name in sharded.CASES:
        assert lines[0]["loss"] != tiny.log_lines(two / name / "train.jsonl")[0]["loss"]
    for line, other in zip(lines, others, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=4e-3)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=2e-2)


@pytest.mark.parametrize("name", sharded.CASES)
def test_every_process_measures_the_same_whole_weights(two, name):
    """Two measurements, of weights that differ, with the same hash in both processes."""
    one, other = ((two / name / f"hashes-{rank}").read_text().splitlines() for rank in (0, 1))
    assert one == other
    assert [line.split()[0] for line in one] == ["2", "3"]
    assert one[0].split()[1] != one[1].split()[1]


@pytest.fixture
def measured(two) -> list[dict]:
    """What each process wrote down of a model that was never trained."""
    return [json.loads((two / f"measured-{rank}.json").read_text()) for rank in (0, 1)]


def test_a_model_in_shards_says_what_a_whole_one_says(measured):
    """Also where one process has much more to ask than the other, which runs along until both are done."""
    expected = sharded.answers(tiny.model())
    for found in measured:
        assert found["written"] == expected["written"]
        for name in ("logp", "variance"):
            for one, other in zip(expected[name], found[name], strict=True):
                assert other == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_a_model_in_shards_is_saved_bit_for_bit(two, measured):
    model = tiny.model()
    assert [found["hash"] for found in measured] == [model_hash(model)] * 2
    saved = load_file(two / "saved/model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(saved[name], value), name
    assert json.loads((two / "saved/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_no_process_holds_more_than_its_share_and_one_block(measured):
    """When it is opened, a layer or what is outside of layers; when it is run, both; at the end, nothing whole."""
    model = tiny.model()
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    outside = sum(p.numel() for p in model.parameters()) - 2 * layer
    for found in measured:
        assert found["opened"] == [layer, layer, outside]
        assert max(found["asked"]) == layer + outside
        assert found["left"] == 0


def test_resumed_equals_uninterrupted_bit_for_bit(two):
    """Stopped after two of three steps, and gone on from shards."""
    for key, value in load_file(two / "npo/weights").items():
        assert torch.equal(load_file(two / "resumed/weights")[key], value)
    assert tiny.log_lines(two / "resumed/train.jsonl") == tiny.log_lines(two / "npo/train.jsonl")


def test_chunks_of_the_output_layer_were_many(two):
    """What the parity rests on: a micro-batch has more answer tokens than a chunk holds, on both processes."""
    plan = sharded.job(two, sharded.NPO()).plan
    assert min(sum(batch.labels.size for batch in plan[i]["batches"].values()) for i in range(len(plan))) > 4
    assert json.loads((two / "npo/train.jsonl").read_text().splitlines()[0])["loss"] > 1
