"""What a training refuses before it starts."""

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
    plan = BatchPlan(
        {"forget": [Encoded((0, 1), 1)]}, pad_id=0, epochs=None, steps=1, batch_size=1, device_batch_size=1
    )
    config = Train(**{"steps": 1, "lr": 1.0, "warmup_epochs": 0, **settings})  # type: ignore[arg-type]
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
    """Where the package is there, the name goes through as it is."""
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda package: package)
    assert arguments.training_arguments(job(tmp_path, optimizer=name), tmp_path).optim == name


def test_other_optimisers_need_no_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda package: None)
    assert arguments.training_arguments(job(tmp_path), tmp_path).optim == "adamw_torch_fused"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [({"fsdp": True}, "launcher"), ({"fsdp_config": {}}, "launcher"), ({"liger_kernel_config": {}}, "ours")],
)
def test_fields_that_would_do_nothing_are_refused(tmp_path, extra, reason):
    with pytest.raises(ConfigError, match=rf"train.trainer_extra.{next(iter(extra))}: .*{reason}"):
        arguments.training_arguments(job(tmp_path, trainer_extra=extra), tmp_path)


@pytest.mark.parametrize("sharded", [True, False])
def test_a_state_is_gone_on_from_as_it_was_made(tmp_path, monkeypatch, sharded):
    """A state saved with FSDP is refused without, and the other way round; nothing is deleted."""
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
def test_moments_made_before_the_first_step_are_those_that_adam_makes_in_it(fused):
    """Three steps with both: equal weights and state, to the last bit; other optimisers get none."""
    states = []
    for filled in (True, False):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        adam = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
        if filled:
            optimizer.fill_state(adam)
            assert len(adam.state) == 2
        for _ in range(3):
            adam.zero_grad()
            layer(torch.ones(4, 3)).square().sum().backward()
            adam.step()
        states.append([*layer.parameters(), *(each for state in adam.state.values() for each in state.values())])
    assert len(states[0]) == 8
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(*states, strict=True))
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    optimizer.fill_state(other)
    assert not other.state
