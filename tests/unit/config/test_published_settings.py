"""Packaged recipes take the number of steps and the warm-up of their sources."""

import pytest

from expunge.config.load import load_recipe
from expunge.data.templates import Encoded
from expunge.training.batching import BatchPlan


@pytest.mark.parametrize(
    ("name", "num_rows", "steps", "warmup"),
    [
        ("tofu-forget05-simnpo", 200, 62, 6),
        ("tofu-forget10-altpo", 2000, 124, 62),
        ("tofu-forget10-ceu", 400, 108, 12),
        ("tofu-forget10-graddiff", 400, 120, 12),
        ("tofu-forget10-gru", 400, 62, 0),
        ("tofu-forget10-idkdpo", 400, 120, 12),
        ("tofu-forget10-idksft", 400, 62, 12),
        ("tofu-forget10-ihl", 400, 62, 12),
        ("tofu-forget10-klmin", 400, 120, 12),
        ("tofu-forget10-npo", 400, 125, 25),
        ("tofu-forget10-pdu", 400, 30, 3),
        ("tofu-forget10-rmu", 400, 120, 12),
        ("tofu-forget10-satimp", 400, 60, 12),
        ("tofu-forget10-undial", 400, 120, 12),
        ("tofu-forget10-wga", 400, 60, 12),
    ],
)
def test_steps_and_warmup(name, num_rows, steps, warmup):
    train = load_recipe(name).train
    rows = {"forget": [Encoded((0, 1), 1)] * num_rows}
    plan = BatchPlan.of(train, rows, None, pad_id=0, world_size=1, seed=0)
    assert (plan.steps, plan.warmup_steps(train)) == (steps, warmup)


@pytest.mark.parametrize("method", ["graddiff", "klmin", "idksft", "idkdpo", "rmu", "pdu", "gru", "ihl"])
def test_gradients_are_not_clipped_where_the_source_does_not(method):
    assert load_recipe(f"tofu-forget10-{method}").train.max_grad_norm == 0
    assert load_recipe("tofu-forget05-simnpo").train.max_grad_norm == 0
    assert load_recipe("wmdp-simnpo-zephyr").train.max_grad_norm == 1


def test_a_forget_row_meets_one_retain_row():
    train = load_recipe("tofu-forget05-simnpo").train
    rows = {"forget": [Encoded((0, 1), 1)] * 200, "retain": [Encoded((0, 1), 1)] * 3800}
    plan = BatchPlan.of(train, rows, None, pad_id=0, world_size=1, seed=0)
    pairs = {pair for step in range(plan.steps) for pair in zip(*plan.rows_of(step).values(), strict=True)}
    assert len(pairs) == 200


def test_reinforcements_have_no_weight_decay():
    assert load_recipe("tofu-forget10-taskvector").method.train.weight_decay == 0
    assert load_recipe("whp-llama2").method.reinforce.weight_decay == 0
