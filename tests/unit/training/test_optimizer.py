"""AdamW with an uncorrected epsilon: its formula, resuming, and its name in a recipe."""

import math
from pathlib import Path

import pytest
import torch

from expunge.checks.settings import check_settings
from expunge.config.load import load_recipe
from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.methods.base import Objective
from expunge.training.arguments import training_arguments
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.optimizer import AdamWUncorrectedEpsilon
from expunge.training.trainer import StepTrainer

LR, BETAS, EPSILON = 0.1, (0.9, 0.999), 1e-2


def updates(parameter, optimizer, gradients):
    """Return the parameter after each step."""
    values = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        values.append(parameter.detach().clone())
    return values


def by_hand(start, gradients, weight_decay):
    """The former transformers.AdamW, except that weight decay is applied before the update."""
    theta, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    values = []
    for t, gradient in enumerate(gradients, start=1):
        m = BETAS[0] * m + (1 - BETAS[0]) * gradient
        v = BETAS[1] * v + (1 - BETAS[1]) * gradient**2
        rate = LR * math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
        theta = (1 - LR * weight_decay) * theta - rate * m / (v.sqrt() + EPSILON)
        values.append(theta.clone())
    return values


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_it_is_the_formula(fused, weight_decay):
    """Gradients of the size of epsilon, where torch's AdamW takes other steps."""
    torch.manual_seed(0)
    start = torch.randn(5, dtype=torch.float64)
    gradients = [EPSILON * torch.randn(5, dtype=torch.float64) for _ in range(20)]
    settings = {"lr": LR, "betas": BETAS, "eps": EPSILON, "weight_decay": weight_decay, "fused": fused}
    parameter = torch.nn.Parameter(start.clone())
    values = updates(parameter, AdamWUncorrectedEpsilon([parameter], **settings), gradients)
    for value, expected in zip(values, by_hand(start, gradients, weight_decay), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    parameter = torch.nn.Parameter(start.clone())
    plain = updates(parameter, torch.optim.AdamW([parameter], **settings), gradients)
    assert float((plain[0] - values[0]).abs().max()) > 0.01


def test_it_resumes_with_its_epsilon():
    """Three steps, a saved and loaded state, and three more steps equal six."""
    gradients = [EPSILON * torch.randn(4) for _ in range(6)]
    parameter = torch.nn.Parameter(torch.zeros(4))
    values = updates(parameter, AdamWUncorrectedEpsilon([parameter], lr=LR, eps=EPSILON), gradients)
    parameter = torch.nn.Parameter(torch.zeros(4))
    first = AdamWUncorrectedEpsilon([parameter], lr=LR, eps=EPSILON)
    updates(parameter, first, gradients[:3])
    second = AdamWUncorrectedEpsilon([parameter], lr=LR, eps=EPSILON)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(updates(parameter, second, gradients[3:])[-1], values[-1], rtol=0, atol=0)


def test_a_recipe_names_it(tmp_path):
    """The trainer creates it with the recipe's settings, and `check` accepts the name."""
    config = Train(
        steps=1,
        lr=0.5,
        batch_size=1,
        warmup_epochs=0,
        weight_decay=0,
        optimizer="adamw_uncorrected_epsilon",
        trainer_extra={"adam_epsilon": 1e-6},
    )
    plan = BatchPlan.of(config, {"forget": [Encoded((0, 1), 1)]}, None, pad_id=0, world_size=1, seed=0)
    model = torch.nn.Module()
    model.base_model = torch.nn.Linear(2, 1)
    job = Job("Training", model, plan, Objective(lambda step: None), config, Path(tmp_path), seed=0)
    trainer = StepTrainer.__new__(StepTrainer)
    trainer.job, trainer.args, trainer.model = job, training_arguments(job, tmp_path), model
    trainer.optimizer = trainer.optimizer_cls_and_kwargs = None
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is AdamWUncorrectedEpsilon
    assert all((group["lr"], group["uncorrected_eps"]) == (0.5, 1e-6) for group in optimizer.param_groups)
    assert len(optimizer.state) == 2

    settings = ["train.optimizer=adamw_uncorrected_epsilon", "train.trainer_extra.adam_epsilon=1e-6"]
    report = check_settings(load_recipe("wmdp-rmu-zephyr", settings))
    assert {item.status for item in report.items if item.name == "train arguments"} == {"ok"}
