"""The attack of RMU-LAT: bounded, zero on padding, and effective."""

from typing import Any

import pytest
import torch
import transformers

from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError
from expunge.losses.representation import project
from expunge.methods.base import Objective, Start
from expunge.methods.rmu import RMU
from expunge.methods.rmulat import RMULAT
from expunge.modeling.batch import TensorBatch
from expunge.modeling.hidden.trace import add_to_residual
from expunge.modeling.step import Counts, Step

SETTINGS: dict[str, Any] = {"layer": 1, "update_layers": [0, 1], "c": [3.0], "alpha": [10.0]}
ROWS = [Encoded((1, 5, 6, 7, 8, 2), 1), Encoded((1, 9, 10, 2), 1)]


@pytest.fixture
def model() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2
    )
    torch.manual_seed(0)
    built = transformers.AutoModelForCausalLM.from_config(config)
    names = RMU(**SETTINGS).trainable(built)
    for name, parameter in built.named_parameters():
        parameter.data.normal_(std=0.3)
        parameter.requires_grad_(name in names)
    return built


def objective_of(method: RMU | RMULAT, model: Any) -> Objective:
    objective = method.objective(1, 1.0)
    objective.start(Start(model, ("",), 1, batch=lambda name, step: TensorBatch.of(collate(ROWS, 0), "cpu")))
    return objective


def step_of(model: Any) -> Step:
    batch = TensorBatch.of(collate(ROWS, 0), "cpu")
    step = Step({"forget": batch, "retain": batch}, {name: Counts(2, 8) for name in ("forget", "retain")})
    step.bind(model)
    return step


def test_projection_by_hand() -> None:
    """(3, 4) has length 5: at radius 1 it becomes (0.6, 0.8); (0.3, 0.4) is short enough and unchanged."""
    projected = project(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    torch.testing.assert_close(projected, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_attack_is_bounded_and_makes_forget_text_likelier(model: Any) -> None:
    objective: Any = objective_of(RMULAT(**SETTINGS, epsilon=0.5, inner_steps=12), model)
    delta = objective.attack(step_of(model))
    lengths = delta.norm(dim=-1)
    assert float(lengths.max()) <= 0.5 + 1e-6
    # The last token predicts nothing, so its vector has no gradient.
    assert float(lengths[0, :-1].min()) > 0
    assert torch.equal(lengths[1, 4:], torch.zeros(2))
    before = step_of(model).only("forget").nll("forget")
    with add_to_residual(model, 1, delta):
        after = step_of(model).only("forget").nll("forget")
    assert float(after) < float(before) - 0.1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_with_a_tiny_epsilon_the_loss_is_that_of_rmu(model: Any) -> None:
    plain = objective_of(RMU(**SETTINGS), model)(step_of(model))
    attacked = objective_of(RMULAT(**SETTINGS, epsilon=1e-7, inner_steps=2), model)(step_of(model))
    torch.testing.assert_close(attacked.total, plain.total)
    strong = objective_of(RMULAT(**SETTINGS, epsilon=1.0), model)(step_of(model))
    assert not torch.isclose(strong.terms["forget"], plain.terms["forget"])
    torch.testing.assert_close(strong.terms["retain"], plain.terms["retain"])
    strong.total.backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_gradient_checkpointing_is_rejected(model: Any) -> None:
    for layer in model.model.layers:
        layer.gradient_checkpointing = True
    with pytest.raises(IncompatibleError, match="gradient checkpointing"):
        objective_of(RMULAT(**SETTINGS), model)
