"""How trials are drawn: by number, so that a continued sweep draws as an uninterrupted one."""

import sys

import pytest
from sweep_trials import sweep, trial

from expunge.errors import MissingExtraError
from expunge.sweeps.samplers import make_sampler

SPACE = {
    "train.lr": {"log_range": [1e-5, 1e-1]},
    "train.epochs": {"range": [2, 5]},
    "method.beta": [0.1, 0.5],
    "method.retain_weight": {"range": [0.0, 2.0]},
}


def test_grid_in_order_and_its_end(tmp_path):
    grid = make_sampler(sweep(over={"seed": [1, 2], "method.beta": [0.1, 0.5]}), tmp_path)
    assert [grid.ask(number) for number in (0, 1, 3, 4)] == [
        {"seed": 1, "method.beta": 0.1},
        {"seed": 1, "method.beta": 0.5},
        {"seed": 2, "method.beta": 0.5},
        None,
    ]


def test_a_pruned_grid_is_shuffled_by_its_seed(tmp_path):
    """Otherwise the first values of the first axis would meet no competition."""
    orders = [
        [make_sampler(sweep(prune="asha", seed=seed), tmp_path).ask(n)["train.lr"] for n in range(6)]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]


def test_random_draws_within_bounds_and_by_number_alone(tmp_path):
    """Half of a log-uniform draw from 1e-5..1e-1 lies below the geometric middle 1e-3; whole ends give whole draws."""
    one = make_sampler(sweep(sampler="random", trials=9, over=SPACE), tmp_path)
    two = make_sampler(sweep(sampler="random", trials=9, over=SPACE), tmp_path)
    drawn = [one.ask(number) for number in range(400)]
    assert two.ask(7) == drawn[7]
    assert all(1e-5 <= each["train.lr"] <= 1e-1 for each in drawn)
    assert sum(each["train.lr"] < 1e-3 for each in drawn) == pytest.approx(200, abs=45)
    assert {each["train.epochs"] for each in drawn} == {2, 3, 4, 5}
    assert {each["method.beta"] for each in drawn} == {0.1, 0.5}
    assert 0 <= min(each["method.retain_weight"] for each in drawn) < 0.1
    assert all(isinstance(each["train.epochs"], int) for each in drawn)


@pytest.mark.parametrize("name", ["tpe", "gp", "nsgaii"])
def test_optuna_goes_on_where_it_stopped(tmp_path, name):
    """Three trials, then a new process: known numbers get the same settings, new ones those of an unbroken run."""
    mine = sweep(sampler=name, trials=9, over=SPACE)

    def course(folder, sittings):
        drawn = []
        for numbers in sittings:
            sampler = make_sampler(mine, folder)
            for number in numbers:
                drawn.append(sampler.ask(number))
                assert sampler.ask(number) == drawn[-1]
                sampler.tell(trial(number, 0.1 * number + 0.01, 0.5))
                sampler.tell(trial(number, 0.1 * number + 0.01, 0.5))
        return drawn

    whole = course(tmp_path / "whole", [range(5)])
    assert course(tmp_path / "broken", [range(3), range(3, 5)]) == whole
    assert all(1e-5 <= each["train.lr"] <= 1e-1 and each["method.beta"] in (0.1, 0.5) for each in whole)
    assert len({each["train.lr"] for each in whole}) == 5


def test_a_failed_or_stopped_trial_is_told_as_such(tmp_path):
    sampler = make_sampler(sweep(sampler="tpe", trials=9), tmp_path)
    for number, state in enumerate(["failed", "stopped", "complete"]):
        sampler.ask(number)
        sampler.tell(trial(number, None, None, state=state))
    states = [each.state.name for each in sampler._study.trials]
    assert states == ["FAIL", "FAIL", "FAIL"]  # the complete one has no number to tell


def test_optuna_is_asked_for_by_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"sampler: tpe needs the package 'optuna'.*expunge\[sweep\]"):
        make_sampler(sweep(sampler="tpe", trials=2), tmp_path)
