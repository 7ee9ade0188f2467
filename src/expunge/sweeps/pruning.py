"""Whether a trial is worth another epoch: Optuna's pruners, asked about the trajectories that are on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.config.selection_rule import Score, comparable
from expunge.config.sweep import Sweep
from expunge.errors import MissingExtraError
from expunge.records.sweeps import Epoch, Trial

WITHIN = 1e3
"""Added to scores within the rule's bounds, so that one number orders them above all others."""


def need_optuna(purpose: str) -> Any:
    """The package.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "sweep", purpose) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def watched(epoch: Epoch, sweep: Sweep) -> float | None:
    """The number by which trials are compared after an epoch, more is better; None where it is missing."""
    watch = sweep.prune.watch if sweep.prune is not None else None
    if watch is not None:
        found = comparable(epoch.headlines, watch)
        return None if found is None else found * (-1 if sweep.objectives.get(watch) == "down" else 1)
    scored = sweep.rule.score(epoch.headlines)
    return None if scored is None else as_number(scored)


def as_number(found: Score) -> float:
    """A rule's score as one number in the same order."""
    return found[0] * WITHIN + found[1]


def falls_behind(trial: Trial, others: Sequence[Trial], sweep: Sweep) -> bool:
    """Ask the pruner about a trial's last epoch, given everything that other trials have reported.

    The pruner's study is built anew from the records, so that neither a killed sweep nor trials on other machines
    need any memory but the run folders.
    """
    optuna = need_optuna(f"prune: {sweep.prune.name if sweep.prune else ''}")
    everyone = {each.number: each for each in [*others, trial] if each.state != "duplicate"}
    study = optuna.create_study(
        study_name=sweep.name,
        direction="maximize",
        pruner=make_pruner(sweep),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    asked = None
    # Hyperband assigns brackets by number, so that numbers without a record must exist too.
    for number in range(max(everyone) + 1):
        own = study.ask()
        each = everyone.get(number)
        if number == trial.number:
            asked = own
            continue
        _report(own, each, sweep)
        if each is None or each.state == "failed":
            study.tell(own, state=optuna.trial.TrialState.FAIL)
        elif each.state == "stopped":
            study.tell(own, state=optuna.trial.TrialState.PRUNED)
        elif each.state == "complete" and (last := _last(each, sweep)) is not None:
            study.tell(own, last)
    assert asked is not None
    return _report(asked, trial, sweep)


def make_pruner(sweep: Sweep) -> Any:
    """The pruner that a sweep asks for; its steps are epochs, counted from 1."""
    optuna = need_optuna("prune")
    prune = sweep.prune
    assert prune is not None
    if prune.name == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=prune.min_epochs)
    if prune.name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=prune.min_epochs, reduction_factor=prune.factor or 4)
    return optuna.pruners.HyperbandPruner(
        min_resource=prune.min_epochs,
        max_resource=max(longest(sweep), prune.min_epochs),
        reduction_factor=prune.factor or 3,
    )


def longest(sweep: Sweep) -> int:
    """Epochs of the longest trial."""
    axis = sweep.over.get("train.epochs")
    if axis is not None:
        return int(max(axis.points() or axis.ends))
    train = sweep.recipe.get("train") or {}
    epochs = sweep.set.get("train.epochs", train.get("epochs"))
    return int(epochs) if epochs else 1


def _report(own: Any, trial: Trial | None, sweep: Sweep) -> bool:
    """Report a trial's epochs one by one; the pruner's answer to the last one.

    Asked after each, because the pruners note a rung only when they are asked.
    """
    answer = False
    for place, epoch in enumerate(trial.trajectory if trial else (), start=1):
        value = watched(epoch, sweep)
        if value is not None:
            own.report(value, step=place)
            answer = bool(own.should_prune())
    return answer


def _last(trial: Trial, sweep: Sweep) -> float | None:
    return watched(trial.trajectory[-1], sweep) if trial.trajectory else None
