"""Rows of each optimiser step: published step counts, pairing, and independence of the number of processes."""

import re
from collections import Counter

import pytest
import tiny

from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError, UserError

SIZES = {"forget": 12, "retain": 40}


def sets(**sizes: int) -> dict[str, list[Encoded]]:
    return {name: tiny.rows(size, seed=size) for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("rows", "steps", "warmup"), [(400, 125, 12), (200, 62, 6), (40, 12, 1)], ids=["forget10", "forget05", "forget01"]
)
def test_published_step_counts(rows, steps, warmup):
    """10 epochs at batch 32: floor(10 x 400 / 32) = 125, floor(10 x 200 / 32) = 62, floor(10 x 40 / 32) = 12;
    one epoch of warm-up: floor(400 / 32) = 12, floor(200 / 32) = 6, floor(40 / 32) = 1."""
    plan = tiny.plan({"forget": [Encoded((3, 2), 1)] * rows}, epochs=10, steps=None, batch_size=32)
    assert (plan.steps, plan.warmup_steps(Train(epochs=10, lr=1))) == (steps, warmup)


def test_the_default_warm_up_is_cut_at_the_end_of_the_training():
    """The default is one pass, 12 / 4 = 3 steps; the training has 2."""
    plan = tiny.plan(sets(**SIZES), batch_size=4, steps=2)
    assert plan.warmup_steps(Train(steps=2, lr=1)) == 2


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"epochs": 1, "warmup_steps": 3}, "warmup_steps 3: warm-up (3 steps)"),
        ({"steps": 3, "warmup_epochs": 1.5}, "warmup_epochs 1.5: warm-up (4 steps)"),
    ],
    ids=["steps in epochs", "epochs in steps"],
)
def test_a_warm_up_that_was_set_and_takes_the_whole_training_is_refused(settings, wanted):
    """One pass of 12 rows at batch 4 is 3 steps; 1.5 passes are floor(1.5 x 12 / 4) = 4. One step less is fine."""
    config = Train(lr=1, **settings)
    plan = tiny.plan(sets(**SIZES), batch_size=4, epochs=config.epochs, steps=config.steps)
    with pytest.raises(IncompatibleError, match=re.escape(f"{wanted} is not shorter than the training (3 steps)")):
        plan.warmup_steps(config)
    less = {name: 2 if name == "warmup_steps" else 0.9 for name in settings if name.startswith("warmup")}
    assert plan.warmup_steps(config.model_copy(update=less)) == 2


def test_every_forget_row_once_per_pass():
    """12 rows at batch 4: steps 0-2 are the first pass, 3-5 the second, in another order."""
    plan = tiny.plan(sets(**SIZES), batch_size=4, steps=6, normalize="microbatch")
    passes = [[row for step in steps for row in plan.rows_of(step)["forget"]] for steps in (range(3), range(3, 6))]
    assert [sorted(rows) for rows in passes] == [list(range(12))] * 2
    assert passes[0] != passes[1]
    assert plan.epoch_ends() == [3, 6]


@pytest.mark.parametrize("batch_size", [4, 6, 7])
def test_every_retain_row_once_before_any_again(batch_size):
    """After any number of steps no retain row has been used two times more often than another."""
    plan = tiny.plan(sets(**SIZES), batch_size=batch_size, steps=30)
    used: Counter[int] = Counter({row: 0 for row in range(SIZES["retain"])})
    for step in range(plan.steps):
        used.update(plan.rows_of(step)["retain"])
        assert max(used.values()) - min(used.values()) <= 1
    assert sum(used.values()) == 30 * batch_size


def test_modulo_pairing_gives_row_i_the_retain_row_i():
    plan = tiny.plan(sets(forget=12, retain=5), batch_size=4, steps=3, retain_pairing="modulo", normalize="microbatch")
    for step in range(3):
        rows = plan.rows_of(step)
        assert rows["retain"] == [row % 5 for row in rows["forget"]]


def test_aligned_rows_stay_together_when_sorted_by_length():
    data = {"forget": tiny.rows(12, seed=1), "refusal": tiny.rows(12, seed=2)}
    plan = tiny.plan(data, batch_size=6, steps=2, aligned=("refusal",))
    for step in range(2):
        rows = plan.rows_of(step)
        assert rows["refusal"] == rows["forget"]


@pytest.mark.parametrize("pairing", ["permutation", "random", "modulo"])
@pytest.mark.parametrize(("world_size", "device_batch_size"), [(1, 2), (2, 8), (2, 2), (4, 1), (3, 2)])
def test_effective_batches_do_not_depend_on_the_machine(pairing, world_size, device_batch_size):
    """The rows of each optimiser step, and what means divide by, are those of one process with one micro-batch."""
    data = sets(**SIZES)
    whole = tiny.plan(data, retain_pairing=pairing, steps=5)
    split = tiny.plan(data, retain_pairing=pairing, steps=5, world_size=world_size, device_batch_size=device_batch_size)
    parts = split.accumulation * world_size
    assert len(split) == 5 * parts
    for step in range(5):
        expected = whole[step]
        micro = [split[step * parts + part] for part in range(parts)]
        for name in SIZES:
            rows = [row for item in micro for row in item["rows"][name].tolist()]
            assert sorted(rows) == sorted(expected["rows"][name].tolist())
            assert all(item["counts"][name] == expected["counts"][name] for item in micro)
            assert all(1 <= item["batches"][name].num_rows <= device_batch_size for item in micro)


def test_another_seed_gives_another_order():
    data = sets(**SIZES)
    assert tiny.plan(data, seed=3).rows_of(0) == tiny.plan(data, seed=3).rows_of(0)
    assert tiny.plan(data, seed=3).rows_of(0) != tiny.plan(data, seed=4).rows_of(0)


def test_more_processes_than_rows():
    with pytest.raises(UserError, match=r"batch_size 2 is less than the number of processes \(4\)"):
        tiny.plan(sets(**SIZES), batch_size=2, world_size=4)


def test_a_process_without_a_row():
    """5 rows for 2 processes at one row each are 3 rounds, in the last of which one process would have none."""
    with pytest.raises(UserError, match="batch_size 5 cannot fill 2 processes x 3 micro-batches"):
        tiny.plan(sets(**SIZES), batch_size=5, world_size=2, device_batch_size=1)
    assert tiny.plan(sets(**SIZES), batch_size=5, world_size=2, device_batch_size=2).accumulation == 2
