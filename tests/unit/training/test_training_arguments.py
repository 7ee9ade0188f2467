"""Settings that a training refuses before it starts, resuming, and Adam's state."""

from pathlib import Path

import pytest
import torch

from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.errors import ConfigError, IncompatibleError, MissingExtraError
from expunge.methods.base import Objective
from expunge.training import arguments, optimizer, trainer
from expunge.training.batching import BatchPlan


def job(folder: Path, **settings: object) -> trainer.Job:
    config = Train(**{"steps": 1, "lr": 1.0, "batch_size": 1, "warmup_epochs": 0, **settings})  # type: ignore[arg-type]
    plan = BatchPlan.of(config, {"forget": [Encoded((0, 1), 1)]}, None, pad_id=0, world_size=1, seed=0)
    model = torch.nn.Linear(1, 1)
    return trainer.Job("Training", model, plan, Objective(lambda step: None), config, folder, seed=0)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "paged_lion_32bit"])
def test_bitsandbytes_optimisers_name_their_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=rf"{name}.*'bitsandbytes'.*expunge\[8bit\]"):
        arguments.training_arguments(job(tmp_path, optimizer=name), tmp_path)


def test_torchao_optimisers_name_their_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"'torchao'.*expunge\[8bit\]"):
        arguments.training_arguments(job(tmp_path, optimizer="adamw_torch_8bit"), tmp_path)


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adamw_bnb_8bit"])
def test_bitsandbytes_optimisers_reach_transformers(tmp_path, monkeypatch, name):
    """With the package installed, the name is passed on unchanged."""
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda package: package)
    assert arguments.training_arguments(job(tmp_path, optimizer=name), tmp_path).optim == name


def test_other_optimisers_need_no_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda package: None)
    assert arguments.training_arguments(job(tmp_path), tmp_path).optim == "adamw_torch_fused"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [({"fsdp": True}, "launcher"), ({"fsdp_config": {}}, "launcher"), ({"liger_kernel_config": {}}, "set by expunge")],
)
def test_fields_without_effect_are_refused(tmp_path, extra, reason):
    with pytest.raises(ConfigError, match=rf"train.trainer_extra.{next(iter(extra))}: .*{reason}"):
        arguments.training_arguments(job(tmp_path, trainer_extra=extra), tmp_path)


@pytest.mark.parametrize("sharded", [True, False])
def test_a_checkpoint_is_resumed_only_with_or_without_fsdp_as_it_was_saved(tmp_path, monkeypatch, sharded):
    """A checkpoint saved with FSDP is refused without it, and the other way round; nothing is deleted."""
    monkeypatch.setattr(trainer, "fsdp_enabled", lambda: not sharded)
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "complete.json").write_text("{}")
    if sharded:
        (folder / "pytorch_model_fsdp.bin").write_bytes(b"")
    with pytest.raises(IncompatibleError, match=f"saved {'with' if sharded else 'without'} FSDP"):
        trainer._resume_from(tmp_path)
    assert (folder / "complete.json").is_file()


@pytest.mark.parametrize("fused", [True, False])
def test_moments_allocated_before_the_first_step_equal_those_of_adam(fused):
    """Three steps each: weights and state are equal to the last bit; other optimisers get no state."""
    states = []
    for allocated in (True, False):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        adam = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
        if allocated:
            optimizer.allocate_moments(adam)
            assert len(adam.state) == 2
        for _ in range(3):
            adam.zero_grad()
            layer(torch.ones(4, 3)).square().sum().backward()
            adam.step()
        states.append([*layer.parameters(), *(value for state in adam.state.values() for value in state.values())])
    assert len(states[0]) == 8
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*states, strict=True))
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    optimizer.allocate_moments(sgd)
    assert not sgd.state
