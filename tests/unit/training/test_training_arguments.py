"""What a training refuses before it starts."""

from pathlib import Path

import pytest
import torch

from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.errors import ConfigError, IncompatibleError, MissingExtraError
from expunge.methods._base import Objective
from expunge.training import trainer
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
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=rf"{name}.*'bitsandbytes'.*expunge\[8bit\]"):
        trainer.training_arguments(job(tmp_path, optimizer=name), tmp_path)


def test_torchao_optimisers_name_their_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"'torchao'.*expunge\[8bit\]"):
        trainer.training_arguments(job(tmp_path, optimizer="adamw_torch_8bit"), tmp_path)


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adamw_bnb_8bit"])
def test_bitsandbytes_optimisers_reach_transformers(tmp_path, monkeypatch, name):
    """Where the package is there, the name goes through as it is."""
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda package: package)
    assert trainer.training_arguments(job(tmp_path, optimizer=name), tmp_path).optim == name


def test_other_optimisers_need_no_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda package: None)
    assert trainer.training_arguments(job(tmp_path), tmp_path).optim == "adamw_torch_fused"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [({"fsdp": True}, "launcher"), ({"fsdp_config": {}}, "launcher"), ({"liger_kernel_config": {}}, "ours")],
)
def test_fields_that_would_do_nothing_are_refused(tmp_path, extra, reason):
    with pytest.raises(ConfigError, match=rf"train.trainer_extra.{next(iter(extra))}: .*{reason}"):
        trainer.training_arguments(job(tmp_path, trainer_extra=extra), tmp_path)


@pytest.mark.parametrize("sharded", [True, False])
def test_a_state_is_gone_on_from_as_it_was_made(tmp_path, monkeypatch, sharded):
    """A state saved with FSDP is refused without, and the other way round; nothing is deleted."""
    monkeypatch.setattr(trainer, "shards", lambda: not sharded)
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "complete.json").write_text("{}")
    if sharded:
        (folder / "pytorch_model_fsdp.bin").write_bytes(b"")
    with pytest.raises(IncompatibleError, match=f"saved {'with' if sharded else 'without'} FSDP"):
        trainer._resume_from(tmp_path)
    assert (folder / "complete.json").is_file()
