"""Samplers of trial settings: the full grid, random search, or one of Optuna's samplers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from expunge.config.axes import Axis
from expunge.config.selection_rule import comparable
from expunge.config.sweep import Sweep
from expunge.records.sweeps import Trial
from expunge.sweeps.pruning import as_number, need_optuna

OPTUNA = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
}
DIGITS = ".6g"
"""Format of sampled numbers: six digits are easier to read and compare than seventeen."""
SEVERAL = {"nsgaii"}
"""Samplers that optimise the objectives separately; the others optimise the rule's score."""


class Sampler(Protocol):
    """Samples the settings of trials; the same trial number always gets the same settings."""

    def ask(self, number: int) -> dict[str, Any] | None:
        """Return the settings of a trial; None after the last one."""

    def tell(self, trial: Trial) -> None:
        """Receive the result of a finished trial."""


def make_sampler(sweep: Sweep, folder: Path) -> Sampler:
    """Return the sampler of a sweep; its state is stored in the sweep's folder."""
    if sweep.sampler == "grid":
        return Grid(sweep)
    return Random(sweep) if sweep.sampler == "random" else Optuna(sweep, folder)


class Grid:
    """Every combination, the last axis fastest; in random order where trials are pruned."""

    def __init__(self, sweep: Sweep) -> None:
        self._points = sweep.grid()
        if sweep.prune is not None:
            order = np.random.default_rng(sweep.seed).permutation(len(self._points))
            self._points = [self._points[i] for i in order]

    def ask(self, number: int) -> dict[str, Any] | None:
        """Return the combination with this number."""
        return self._points[number] if number < len(self._points) else None

    def tell(self, trial: Trial) -> None:
        """No-op: a grid does not use results."""


class Random:
    """Random search: each axis is sampled independently and uniformly (log ranges: uniformly in the logarithm)."""

    def __init__(self, sweep: Sweep) -> None:
        self._axes, self._seed = sweep.over, sweep.seed

    def ask(self, number: int) -> dict[str, Any] | None:
        """Return settings that depend on the seed and the number alone."""
        random = np.random.default_rng([self._seed, number])
        return {key: self._sample(axis, random) for key, axis in self._axes.items()}

    def _sample(self, axis: Axis, random: np.random.Generator) -> Any:
        points = axis.points()
        if points is not None:
            return points[int(random.integers(len(points)))]
        low, high = axis.ends
        if axis.log_range is not None:
            sampled = math.exp(random.uniform(math.log(low), math.log(high)))
            return round(sampled) if axis.is_integer else float(f"{sampled:{DIGITS}}")
        return (
            int(random.integers(int(low), int(high) + 1))
            if axis.is_integer
            else float(f"{random.uniform(low, high):.6g}")
        )

    def tell(self, trial: Trial) -> None:
        """No-op: random search does not use results."""


class Optuna:
    """A sampler of Optuna; its study is stored in a journal file."""

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._optuna = need_optuna(f"sampler: {sweep.sampler}")
        self._sweep = sweep
        folder.mkdir(parents=True, exist_ok=True)
        journal = self._optuna.storages.journal
        directions = ["maximize"]
        if sweep.sampler in SEVERAL:
            directions = ["maximize" if direction == "up" else "minimize" for direction in sweep.objectives.values()]
        self._study = self._optuna.create_study(
            study_name=sweep.name,
            storage=self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(folder / "optuna.journal"))),
            directions=directions,
            load_if_exists=True,
        )
        self._spaces = {key: self._space(axis) for key, axis in sweep.over.items()}

    def ask(self, number: int) -> dict[str, Any] | None:
        """Return the settings that the study has for this number, or sample them now."""
        if number < len(self._study.trials):
            params = self._study.trials[number].params
        else:
            # One seed per number, so that a resumed sweep samples the same settings as an uninterrupted one.
            kind = getattr(self._optuna.samplers, OPTUNA[self._sweep.sampler])
            self._study.sampler = kind(seed=self._sweep.seed * 100_003 + number)
            params = self._study.ask(self._spaces).params
        return {key: self._value(axis, params[key]) for key, axis in self._sweep.over.items()}

    def tell(self, trial: Trial) -> None:
        """Report the objectives, or the rule's score, of a finished trial; repeated reports are ignored."""
        states = self._optuna.trial.TrialState
        if self._study.trials[trial.number].state != states.RUNNING:
            return
        values = self._values(trial)
        if trial.state in {"complete", "duplicate"} and None not in values:
            self._study.tell(trial.number, values)
        else:
            self._study.tell(trial.number, state=states.FAIL)

    def _values(self, trial: Trial) -> list[float | None]:
        if self._sweep.sampler in SEVERAL:
            return [comparable(trial.chosen_on, name) for name in self._sweep.objectives]
        score = self._sweep.rule.score(trial.chosen_on)
        return [None if score is None else as_number(score)]

    def _value(self, axis: Axis, sampled: Any) -> Any:
        if axis.points() is not None:
            return json.loads(sampled)
        return float(f"{sampled:{DIGITS}}") if isinstance(sampled, float) else sampled

    def _space(self, axis: Axis) -> Any:
        space = self._optuna.distributions
        points = axis.points()
        if points is not None:
            return space.CategoricalDistribution([json.dumps(point) for point in points])
        low, high = axis.ends
        log = axis.log_range is not None
        if axis.is_integer:
            return space.IntDistribution(int(low), int(high), log=log)
        return space.FloatDistribution(float(low), float(high), log=log)
