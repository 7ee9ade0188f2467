"""Liger's kernels: refused where they have no effect, and equal to the plain layers where they run."""

import copy
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers.integrations.liger import apply_liger_kernel

from expunge.checks.settings import check_settings
from expunge.config.load import load_recipe
from expunge.errors import ConfigError, IncompatibleError, MissingExtraError
from expunge.training import liger

ON_GPU = SimpleNamespace(
    parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]), config=SimpleNamespace(model_type="odd")
)


@pytest.fixture
def package(monkeypatch):
    """Stand-in for liger's table of architectures, with 'odd' as its only entry."""
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    table = {"odd": None}
    monkeypatch.setitem(
        sys.modules, "liger_kernel.transformers.monkey_patch", SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN=table)
    )
    return table


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(liger.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(liger.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"expunge\[liger\]"):
        liger.require_liger()


def test_require_liger_checks_the_machine_only(monkeypatch):
    """`check` has no model yet, only a placeholder on the CPU."""
    monkeypatch.setattr(liger.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(liger.importlib.util, "find_spec", lambda package: package)
    liger.require_liger()


def test_a_model_with_kernels_is_accepted(package):
    liger.check_liger(ON_GPU)


def test_a_model_on_the_cpu_is_refused(package):
    with pytest.raises(IncompatibleError, match="on the CPU"):
        liger.check_liger(torch.nn.Linear(1, 1))


def test_a_sharded_model_is_refused(package, monkeypatch):
    monkeypatch.setattr(liger, "fsdp_enabled", lambda: True)
    with pytest.raises(IncompatibleError, match="sharded model"):
        liger.check_liger(ON_GPU)


def test_an_architecture_without_kernels_is_refused(package):
    package.clear()
    with pytest.raises(IncompatibleError, match="no kernels for odd models"):
        liger.check_liger(ON_GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU there is nothing to refuse")
def test_a_plan_for_another_machine_accepts_them():
    """`check` tests whether the recipe runs on this machine, `plan` does not."""
    recipe = load_recipe("tofu-forget10-npo", ["train.trainer_extra={use_liger_kernel: true}"])
    with pytest.raises(ConfigError, match="run on a GPU only"):
        check_settings(recipe).raise_failed()
    check_settings(recipe, here=False).raise_failed()


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None,
    reason="needs a GPU and liger-kernel",
)
def test_loss_and_gradient_equal_those_of_the_plain_layers():
    plain = tiny.model("llama").cuda()
    fused = copy.deepcopy(plain)
    liger.check_liger(fused)
    apply_liger_kernel(fused, liger.KERNELS)
    ids = torch.randint(3, tiny.VOCAB, (6, 8), device="cuda")
    losses = []
    for model in (plain, fused):
        losses.append(model(ids, labels=ids).loss)
        losses[-1].backward()
    assert torch.allclose(*losses, atol=1e-5)
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)
