"""GRU in the trainer and by hand: the gradient of the optimiser, with micro-batches and after resuming."""

import copy

import pytest
import torch
from tiny_steps import FORGET, RETAIN, make_step, plain_nll, tiny_model, trained_pair, value_and_gradient

from expunge.config.recipe import Train
from expunge.errors import IncompatibleError
from expunge.losses.gradients import rectify
from expunge.methods.gru import GRU
from expunge.modeling.reference import reference_logp
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.trainer import train

pytestmark = pytest.mark.slow


def optimiser_gradient(method, model, start, objective=None, parts=(slice(None),)):
    """Return `.grad` of all parameters after an effective batch, as one vector."""
    objective = objective or method.objective(10, 2)
    model.zero_grad(set_to_none=True)
    for part in parts:
        objective(make_step(method, model, start, part=part)).total.backward()
    objective.after_backward(model)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def plain_gradients(model):
    """Return the gradients of minus the forget cross-entropy and of the retain cross-entropy."""
    return (value_and_gradient(loss, model)[1] for loss in (-plain_nll(model, FORGET), plain_nll(model, RETAIN)))


@pytest.mark.parametrize("seed", range(6))
def test_the_optimiser_gets_the_rectified_gradient(seed):
    model, start = trained_pair(seed)
    forget, retain = plain_gradients(model)
    inner = torch.dot(forget, retain)
    expected = forget - inner / torch.dot(retain, retain) * retain if inner < 0 else forget
    got = optimiser_gradient(GRU(), model, start)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)
    assert float(torch.dot(got, retain)) >= -1e-6


def test_the_seeds_above_cover_both_cases():
    signs = set()
    for seed in range(6):
        forget, retain = plain_gradients(trained_pair(seed)[0])
        signs.add(bool(torch.dot(forget, retain) < 0))
    assert signs == {True, False}


def test_micro_batches_give_the_same_gradient():
    model, start = trained_pair(0)
    whole = optimiser_gradient(GRU(), model, start)
    parts = optimiser_gradient(GRU(), model, start, parts=(slice(0, 1), slice(1, 3)))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=2e-6)


def test_the_retain_gradient_is_smoothed_and_restored():
    """Second step: r = 0.8 g_r(second) + 0.2 g_r(first), also in an objective restored in between."""
    first, start = trained_pair(0)
    second, _ = trained_pair(1)
    method = GRU(kappa=0.8)
    objective = method.objective(10, 2)
    optimiser_gradient(method, first, start, objective)
    restored = method.objective(10, 2)
    restored.load_state(objective.state())
    (_, old), (forget, new) = plain_gradients(first), plain_gradients(second)
    expected = rectify([forget], [0.8 * new + 0.2 * old])[0]
    for instance in (objective, restored):
        got = optimiser_gradient(method, second, start, instance)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


def test_npo_can_be_the_forget_loss():
    """At the reference NPO's gradient is that of the mean summed log-probability: ascent times tokens per row."""
    model, _ = trained_pair(0)
    method = GRU(forget="npo", kappa=1.0)
    forget, retain = plain_gradients(model)
    forget = forget * sum(row.num_answer for row in FORGET) / len(FORGET)
    torch.testing.assert_close(
        optimiser_gradient(method, model, model), rectify([forget], [retain])[0], rtol=1e-4, atol=1e-5
    )


def run(tmp_path, device_batch_size, steps=4, method=None):
    model = tiny_model(3).float()
    method = method or GRU(forget="npo")
    config = Train(steps=steps, lr=1e-2, batch_size=3, device_batch_size=device_batch_size, optimizer="sgd")
    plan = BatchPlan.of(config, {"forget": FORGET, "retain": RETAIN}, method.needs(), pad_id=0, world_size=1, seed=0)
    scalars = {"forget": reference_logp(model, FORGET, 0)}
    start = copy.deepcopy(model)
    train(
        Job(
            title="test",
            model=model,
            plan=plan,
            objective=method.objective(steps, 1.0),
            config=config,
            folder=tmp_path,
            seed=0,
            reference_logp=scalars,
        )
    )
    return model, start


def test_the_trainer_gives_the_same_weights_for_any_micro_batch(tmp_path):
    whole, start = run(tmp_path / "whole", 3)
    parts, _ = run(tmp_path / "parts", 1)
    moved = max(float((a - b).abs().max()) for a, b in zip(whole.parameters(), start.parameters(), strict=True))
    assert moved > 1e-3
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["FSDP", "DEEPSPEED"])
def test_sharded_gradients_are_refused(monkeypatch, wrapper):
    monkeypatch.setenv(f"ACCELERATE_USE_{wrapper}", "true")
    with pytest.raises(IncompatibleError, match=wrapper):
        GRU().objective(10, 2)
