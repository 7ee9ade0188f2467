"""Liger's kernels: refused where they do nothing, and equal to the plain layers where they run."""

import copy
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers.integrations.liger import apply_liger_kernel

from expunge.errors import ConfigError, IncompatibleError, MissingExtraError
from expunge.training import liger

ON_GPU = SimpleNamespace(
    parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]), config=SimpleNamespace(model_type="odd")
)


def test_a_processor_is_refused():
    with pytest.raises(ConfigError, match="run on a GPU only"):
        liger.check_liger(torch.nn.Linear(1, 1))


def test_shards_are_refused(monkeypatch):
    monkeypatch.setattr(liger, "shards", lambda: True)
    with pytest.raises(ConfigError, match="in shards"):
        liger.check_liger(ON_GPU)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(liger.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"expunge\[liger\]"):
        liger.check_liger(ON_GPU)


@pytest.mark.parametrize("known", [True, False])
def test_an_architecture_without_kernels_is_refused(monkeypatch, known):
    monkeypatch.setattr(liger.importlib.util, "find_spec", lambda package: package)
    there = SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={"odd": None} if known else {"llama": None})
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", there)
    if known:
        liger.check_liger(ON_GPU)
    else:
        with pytest.raises(IncompatibleError, match="no kernels for odd models"):
            liger.check_liger(ON_GPU)


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None,
    reason="needs a GPU and liger-kernel",
)
def test_loss_and_gradient_are_those_of_the_plain_layers():
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
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4)
