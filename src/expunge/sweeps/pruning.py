"""Early stopping of trials: Optuna's pruners, applied to the trajectories on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.config.selection_rule import Score, comparable
from expunge.config.sweep import Sweep
from expunge.errors import MissingExtraError
from expunge.records.sweeps import Epoch, Trial

WITHIN = 1e3
"""Added to scores within the rule's bound, so that a single number ranks them above all others."""


def need_optuna(purpose: str) -> Any:
    """Import Optuna.

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
    """Return the number by which trials are compared after an epoch, higher is better; None where it is missing."""
    watch = sweep.prune.watch if sweep.prune is not None else None
    if watch is not None:
        number = comparable(epoch.headlines, watch)
        return None if number is None else number * (-1 if sweep.objectives.get(watch) == "down" else 1)
    score = sweep.rule.score(epoch.headlines)
    return None if score is None else as_number(score)


def as_number(score: Score) -> float:
    """Return a rule's score as a single number in the same order."""
    return score[0] * WITHIN + score[1]


def falls_behind(trial: Trial, others: Sequence[Trial], sweep: Sweep) -> bool:
    """Return whether the pruner stops a trial after its last epoch, given the epochs of all other trials.

    The pruner's study is rebuilt from the records each time, so that killed sweeps and trials on other machines need
    no state except the run folders.
    """
    optuna = need_optuna(f"prune: {sweep.prune.name if sweep.prune else ''}")
    by_number = {other.number: other for other in [*others, trial] if other.state != "duplicate"}
    study = optuna.create_study(
        study_name=sweep.name,
        direction="maximize",
        pruner=make_pruner(sweep),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    current = None
    # Hyperband assigns brackets by number, so that numbers without a record must exist too.
    for number in range(max(by_number) + 1):
        study_trial = study.ask()
        other = by_number.get(number)
        if number == trial.number:
            current = study_trial
            continue
        _report(study_trial, other, sweep)
        if other is None or other.state == "failed":
            study.tell(study_trial, state=optuna.trial.TrialState.FAIL)
        elif other.state == "stopped":
            study.tell(study_trial, state=optuna.trial.TrialState.PRUNED)
        elif (
            other.state == "complete"
            and other.trajectory
            and (last := watched(other.trajectory[-1], sweep)) is not None
        ):
            study.tell(study_trial, last)
    assert current is not None
    return _report(current, trial, sweep)


def make_pruner(sweep: Sweep) -> Any:
    """Return the pruner of a sweep; its steps are epochs, counted from 1."""
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
    """Return the number of epochs of the longest trial."""
    axis = sweep.over.get("train.epochs")
    if axis is not None:
        return int(max(axis.points() or axis.ends))
    train = sweep.recipe.get("train") or {}
    epochs = sweep.set.get("train.epochs", train.get("epochs"))
    return int(epochs) if epochs else 1


def _report(study_trial: Any, trial: Trial | None, sweep: Sweep) -> bool:
    """Report a trial's epochs one by one and return whether the pruner would stop it after the last one.

    `should_prune` is called after each epoch, because pruners register a rung only in that call.
    """
    stop = False
    for number, epoch in enumerate(trial.trajectory if trial else (), start=1):
        value = watched(epoch, sweep)
        if value is not None:
            study_trial.report(value, step=number)
            stop = bool(study_trial.should_prune())
    return stop
