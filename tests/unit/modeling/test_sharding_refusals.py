"""Unsupported FSDP settings raise before anything is loaded."""

import os

import pytest
import torch

from expunge import distributed
from expunge.errors import IncompatibleError, UserError
from expunge.methods.base import Start
from expunge.methods.rmulat import RMULAT
from expunge.training.optimizer import check_optimizer


@pytest.fixture
def fsdp_environment(monkeypatch):
    """Set the variables that `accelerate launch --use_fsdp --fsdp_version 2 --num_processes 2` sets."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("FSDP_VERSION", "1", "--fsdp_version 2"),
        ("WORLD_SIZE", "1", "only one"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "model.gradient_checkpointing"),
        ("FSDP_OFFLOAD_PARAMS", "true", "--fsdp_offload_params"),
    ],
)
def test_unsupported_settings(fsdp_environment, name, value, reason):
    fsdp_environment.setenv(name, value)
    with pytest.raises(UserError, match=reason):
        distributed.start()


def test_every_process_loads_weights(fsdp_environment):
    """By default, accelerate's launcher makes transformers load weights on rank 0 only."""
    fsdp_environment.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    fsdp_environment.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    fsdp_environment.setattr("accelerate.PartialState", lambda **settings: None)
    distributed.start()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert os.environ["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


def test_without_fsdp_its_settings_are_ignored(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    monkeypatch.setenv("FSDP_VERSION", "1")
    distributed.start()
    assert not distributed.fsdp_enabled()


def test_rmulat_does_not_support_fsdp(fsdp_environment):
    objective = RMULAT(layer=1, update_layers=[1]).objective(1, 1.0)
    with pytest.raises(IncompatibleError, match=r"rmulat .* FSDP"):
        objective.start(Start(torch.nn.Linear(1, 1), ("",), 0, lambda name, step: None))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("optimizer", ["adamw_bnb_8bit", "paged_adamw_32bit"])
def test_bitsandbytes_optimizers_do_not_support_fsdp(fsdp_environment, optimizer):
    with pytest.raises(IncompatibleError, match=f"{optimizer} .* shards.*adamw_torch_8bit"):
        check_optimizer(optimizer)


def test_an_error_on_the_main_process_is_raised_on_every_process(monkeypatch):
    """The error is broadcast like a result."""
    sent = []
    monkeypatch.setattr(distributed, "broadcast_from_main", lambda value: sent.append(value) or value)

    def fails():
        raise UserError("no such model.")

    with pytest.raises(UserError, match="no such model"):
        distributed.run_on_main(fails)
    assert isinstance(sent[0][1], UserError)
    assert distributed.run_on_main(lambda: 3) == 3
