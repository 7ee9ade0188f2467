"""FILA, LoKU's initialisation: weighted low-rank part, Fisher information, and an unchanged model."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny_steps import FORGET, RETAIN, tiny_model

from expunge.config.recipe import Lora, Model
from expunge.errors import IncompatibleError
from expunge.methods.ihl.fila import EPSILON, fisher, fisher_parts, low_rank_part
from expunge.methods.ihl.method import IHL
from expunge.modeling.adapters import (
    add_lora,
    load_initial_adapter,
    lora_layers,
    set_adapter_weights,
    subtract_initial_adapter,
)
from expunge.modeling.load import load_model

SETS = {"forget": FORGET, "retain": RETAIN}
IDS = torch.tensor([[1, 5, 3, 7, 9, 2]])


def adapted(rank=2, targets="all-linear", start=None):
    return add_lora((start or tiny_model()).float().eval(), Lora(rank=rank, alpha=6.0, targets=targets), seed=0)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("importance", "diagonal"), [((1.0, 3.0), [0.0, 2.0]), ((1.0, 1.0), [3.0, 0.0])], ids=["weighted", "equal"]
)
def test_the_important_row_is_approximated(importance, diagonal):
    """W = diag(3, 2), rank 1. With weights (1, 3) the singular values are 3 and 6, so BA is row 2; else row 1."""
    a, b = low_rank_part(torch.diag(torch.tensor([3.0, 2.0])), torch.tensor(importance), 1)
    assert torch.allclose(b @ a, torch.diag(torch.tensor(diagonal)), atol=1e-5)


def test_the_part_is_the_best_approximation_of_its_rank():
    """The minimum of || diag(s)(W - BA) ||^2 is the sum of the squared singular values of diag(s) W beyond the rank
    (Eckart and Young); a row with importance 0 is 0 in BA."""
    torch.manual_seed(0)
    weight, importance = torch.randn(12, 9), torch.rand(12)
    importance[4] = 0
    a, b = low_rank_part(weight, importance, 3)
    assert (a.shape, b.shape) == ((3, 9), (12, 3))
    left = (importance[:, None] * (weight - b @ a)).norm() ** 2
    beyond = torch.linalg.svdvals(importance[:, None] * weight)[3:].square().sum()
    assert math.isclose(float(left), float(beyond), rel_tol=1e-4)
    assert not (b @ a)[4].any()
    assert low_rank_part(weight, importance, 40)[0].shape == (9, 9)


def test_fisher_information_is_the_squared_gradient_per_token():
    """Against transformers' own loss, row by row: sum of n g^2 over sum of n."""
    model = tiny_model().eval()
    weight = model.model.layers[1].mlp.down_proj.weight
    expected = torch.zeros_like(weight)
    for row in FORGET:
        out = model(torch.tensor([row.ids])).logits[0, row.answer_start - 1 : -1]
        (gradient,) = torch.autograd.grad(F.cross_entropy(out, torch.tensor(row.ids[row.answer_start :])), weight)
        expected += row.num_answer * gradient**2
    expected /= sum(row.num_answer for row in FORGET)
    weight.requires_grad_(False)
    (found,) = fisher(model, [weight], FORGET, "forget")
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-12)
    assert not weight.requires_grad
    assert weight.grad is None


def test_parts_weigh_rows_by_relative_importance():
    """`fisher_parts` returns the low-rank part of W for s_i = sqrt(sum_j F_f / (F_r + epsilon))."""
    model = adapted()
    name, layer = next(item for item in lora_layers(model).items() if "down_proj" in item[0])
    weight = layer.get_base_layer().weight
    (own,), (other,) = (fisher(model, [weight], rows, "") for rows in (FORGET, RETAIN))
    a, b = low_rank_part(weight.detach(), (own / (other + EPSILON)).sum(1).sqrt(), 2)
    found_a, found_b = fisher_parts(model, SETS, seed=0)[name]
    assert torch.allclose(found_b @ found_a, b @ a, atol=1e-4)


@pytest.mark.parametrize("rank", [2, 20], ids=["low rank", "more than the matrices have"])
def test_the_model_is_unchanged_and_the_saved_adapter_fits_the_original_weights(tmp_path, rank):
    """Outputs are equal to rounding at the start and, after a change of the adapter, when loaded from the folder."""
    start = tiny_model().float().eval()
    start.save_pretrained(tmp_path / "start")
    before, model = logits(start), adapted(rank, start=copy.deepcopy(start))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "start")
    set_adapter_weights(model, IHL(fila=True).adapter_parts(model, SETS, 0))
    assert not torch.allclose(logits(model), before, atol=1e-2), "the adapter adds BA before it is taken out of W"
    model.save_pretrained(tmp_path / "filled")
    again = adapted(rank, start=copy.deepcopy(start))
    load_initial_adapter(again, tmp_path / "filled")
    assert torch.allclose(logits(again), before, atol=1e-4)
    with torch.no_grad(), again.disable_adapter():
        assert not torch.allclose(again(IDS).logits, before, atol=1e-2), "W - BA is not the start model"
    with torch.no_grad():
        for parameter in again.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    again.peft_config["default"].base_model_name_or_path = str(tmp_path / "start")
    again.save_pretrained(tmp_path / "changed")
    subtract_initial_adapter(tmp_path / "changed", tmp_path / "filled")
    loaded = load_model(str(tmp_path / "changed"), config=Model(name="x"))
    assert torch.allclose(logits(loaded), logits(again), atol=1e-3)
    assert not torch.allclose(logits(loaded), before, atol=1e-2)


def test_embeddings_are_refused():
    model = adapted(targets=["embed_tokens", "q_proj"])
    with pytest.raises(IncompatibleError, match=r"linear layers only, and .*embed_tokens is not linear"):
        fisher_parts(model, SETS, seed=0)


def test_fila_needs_retain_rows():
    with pytest.raises(ValidationError, match="fila compares forget with retain rows"):
        IHL(fila=True, retain_weight=0)
    assert not IHL().needs().adapter_parts
    assert IHL(fila=True).needs().adapter_parts
