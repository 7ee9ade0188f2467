"""Padding changes nothing for methods with an objective of their own: the RMU family and the rectified gradient."""

import pytest
import torch
from tiny_steps import FORGET, make_step, trained_pair

from expunge.data.collate import collate
from expunge.methods.adaptivermu import AdaptiveRMU
from expunge.methods.base import Start
from expunge.methods.gru import GRU
from expunge.methods.rmu import RMU
from expunge.methods.rmulat import RMULAT
from expunge.modeling.batch import TensorBatch

pytestmark = pytest.mark.slow

LAYOUTS = {
    "right+5": {"extra_padding": 5},
    "left": {"side": "left"},
    "left+5": {"side": "left", "extra_padding": 5},
    "pad is end": {"extra_padding": 5, "pad_id": 2},
}
LAYERS = {"layer": 1, "update_layers": [0, 1], "alpha": [10.0]}
STEERING = {
    "rmu": RMU(**LAYERS, c=[3.0], positions="labels"),
    "adaptivermu": AdaptiveRMU(**LAYERS, positions="labels"),
    "rmulat": RMULAT(**LAYERS, c=[3.0], positions="labels", epsilon=0.5, inner_steps=3),
}
GRADIENT = {"gru": GRU(), "gru npo": GRU(forget="npo")}


def steering_step(method, **layout):
    """Value and gradient of the loss, at weights that differ from the target's."""
    model, start = trained_pair()
    moved = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.load_state_dict(start.state_dict())
    trained = method.trainable(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    objective = method.objective(10, 2)
    batch = TensorBatch.of(collate(FORGET, 0), "cpu")
    objective.start(Start(model, ("",), seed=0, batch=lambda name, step: batch))
    with torch.no_grad():
        for name in trained:
            model.get_parameter(name).copy_(moved[name])
    loss = objective(make_step(method, model, start, **layout)).total
    gradient = torch.autograd.grad(loss, [model.get_parameter(name) for name in trained])
    return float(loss.detach()), torch.cat([part.flatten() for part in gradient])


def rectified_step(method, **layout):
    """Value of the forget loss, and the gradient that is passed to the optimiser."""
    model, start = trained_pair()
    objective = method.objective(10, 2)
    loss = objective(make_step(method, model, start, **layout)).total
    loss.backward()
    objective.after_backward(model)
    return float(loss.detach()), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*STEERING, *GRADIENT])
def test_padding_changes_nothing(name, layout):
    method, run = (STEERING[name], steering_step) if name in STEERING else (GRADIENT[name], rectified_step)
    expected, expected_gradient = run(method)
    value, gradient = run(method, **LAYOUTS[layout])
    assert value == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=2e-6)
    assert expected_gradient.abs().max() > 1e-3  # a comparison of zeros would prove nothing


@pytest.mark.parametrize("name", STEERING)
def test_published_means_include_padding(name):
    method = STEERING[name].model_copy(update={"positions": "all"})
    narrow, _ = steering_step(method)
    wide, _ = steering_step(method, extra_padding=5)
    assert abs(narrow - wide) > 1e-3
