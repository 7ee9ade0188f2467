"""Early stopping: what Optuna's pruners say about trajectories from records."""

import sys

import pytest
from sweep_trials import climb, sweep, trial

from expunge.errors import MissingExtraError
from expunge.sweeps.pruning import WITHIN, falls_behind, longest, watched

ASHA = {"name": "asha", "factor": 2}


def test_asha_stops_the_lower_half_of_a_rung():
    """Rungs at epochs 1, 2, 4. Of two trials the better one goes on; nothing is decided between rungs."""
    mine = sweep(prune=ASHA)
    leader = climb(0, 0.1, 0.2, 0.3, 0.4)
    assert falls_behind(climb(1, 0.01, state="running"), [leader], mine)
    assert not falls_behind(climb(1, 0.15, state="running"), [leader], mine)
    assert falls_behind(climb(1, 0.15, 0.15, state="running"), [leader], mine)
    assert not falls_behind(climb(1, 0.15, 0.25, 0.0001, state="running"), [leader], mine)
    assert falls_behind(climb(1, 0.15, 0.25, 0.3, 0.3, state="running"), [leader], mine)


def test_the_first_trial_is_never_stopped():
    assert not falls_behind(climb(0, 1e-9, state="running"), [], sweep(prune=ASHA))


def test_min_epochs_is_the_first_rung():
    mine = sweep(prune={**ASHA, "min_epochs": 2})
    leader = climb(0, 0.1, 0.2)
    assert not falls_behind(climb(1, 0.01, state="running"), [leader], mine)
    assert falls_behind(climb(1, 0.01, 0.01, state="running"), [leader], mine)


def test_the_order_and_the_fate_of_the_others_do_not_matter():
    """A stopped trial still counts on the rungs that it reached; records are read in any order."""
    mine = sweep(prune=ASHA)
    others = [
        climb(0, 0.1, 0.2),
        climb(1, 0.05, state="stopped"),
        climb(2, 0.01, state="stopped"),
        trial(4, state="failed"),
    ]
    for order in (others, others[::-1]):
        assert not falls_behind(climb(3, 0.07, state="running"), order, mine)
        assert falls_behind(climb(3, 0.03, state="running"), order, mine)


def test_median_waits_for_five_complete_trials():
    """Optuna's default; then the best epoch so far is held against the median of the others at the same epoch."""
    mine = sweep(prune="median")
    others = [climb(k, 0.1 * (k + 1), 0.1 * (k + 1)) for k in range(5)]
    low, high = climb(5, 0.05, 0.05, state="running"), climb(5, 0.05, 0.35, state="running")
    assert not falls_behind(low, others[:4], mine)
    assert falls_behind(low, others, mine)
    assert not falls_behind(high, others, mine)


def test_hyperband_runs():
    mine = sweep(prune="hyperband", set={"train.epochs": 9})
    others = [climb(k, 0.1, 0.2, 0.3) for k in range(6)]
    answers = {falls_behind(climb(k, *[1e-6] * 3, state="running"), others[:k], mine) for k in range(1, 6)}
    assert True in answers
    assert longest(sweep(over={"train.epochs": [5, 10]})) == 10


def test_what_is_watched():
    """A rule with a bound: within it the goal counts, outside it the way to the bound, always below."""
    epoch = climb(0, 0.01).trajectory[0]
    assert watched(epoch, sweep()) == pytest.approx(WITHIN - 2)
    assert watched(epoch, sweep(prune={"name": "asha", "watch": "model_utility"})) == 0.5
    bounded = sweep(select="max model_utility subject to forget_quality >= 0.05")
    outside = watched(epoch, bounded)
    assert outside == pytest.approx(-2)
    assert watched(climb(0, 0.06).trajectory[0], bounded) == WITHIN + 0.5 > outside
    assert watched(epoch, sweep(prune={"name": "asha", "watch": "nothing"})) is None


def test_optuna_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"prune: asha needs the package 'optuna'.*expunge\[sweep\]"):
        falls_behind(climb(0, 0.1), [], sweep(prune=ASHA))
