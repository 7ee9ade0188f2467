"""The sweep: a recipe, the settings to try, how trials are drawn, run and stopped, and the rule that chooses one."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from expunge import registry
from expunge.config.axes import Axis
from expunge.config.load import override, parse, parse_recipe, read_yaml
from expunge.config.members import BenchmarkField
from expunge.config.recipe import Recipe, Section
from expunge.config.selection_rule import Rule, read_trial_rule
from expunge.errors import ConfigError
from expunge.rundir import fingerprint

PARTS = ("set", "over")
OBJECTIVES: dict[str, Literal["up", "down"]] = {"forget_quality": "up", "model_utility": "up"}
UNIMPORTANT = ("description", "trials", "max_hours", "keep", "executor", "workers", "address", "resources")
"""Settings that change no trial: a sweep may go on with others."""


class Prune(Section):
    """Stop trials that fall behind, between epochs."""

    name: Literal["asha", "hyperband", "median"]
    """Optuna's SuccessiveHalvingPruner (asynchronous successive halving), HyperbandPruner or MedianPruner."""
    min_epochs: int = Field(default=1, ge=1)
    """No trial is stopped before this epoch; for asha and hyperband the first rung."""
    factor: int | None = Field(default=None, ge=2)
    """asha and hyperband: one trial in so many goes on from a rung (Optuna's defaults: 4 and 3)."""
    watch: str | None = None
    """Headline that is compared after each epoch; without it, what the rule compares."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if self.name == "median" and self.factor is not None:
            raise ValueError("factor has no effect with median")
        return self


class Sweep(Section):
    """Many trials of one recipe, and which of them is chosen."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The sweep's folder is runs/sweep-<name>."""
    description: str = ""
    recipe: dict[str, Any]
    """A packaged recipe's name, a YAML file, or the recipe itself."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value, the same in every trial; a section given whole takes the place of the recipe's."""
    over: dict[str, Axis] = Field(min_length=1)
    """Dotted key -> the values to try."""
    sampler: Literal["grid", "random", "tpe", "gp", "nsgaii"] = "grid"
    """How trials are drawn: every combination, at random, or by a sampler of Optuna."""
    seed: int = Field(default=0, ge=0)
    """Of the sampler, of the order of a pruned grid, and of the halves; a trial's own seed is in its recipe."""
    trials: int | None = Field(default=None, ge=1)
    """At most so many trials; a grid has an end of its own."""
    max_hours: float | None = Field(default=None, gt=0)
    """Start no trial after so many hours of sweeping."""
    objectives: dict[str, Literal["up", "down"]] = Field(default=OBJECTIVES)
    """Headline -> which way is better; the axes of the Pareto front."""
    select: str = "max forget_quality"
    """Rule that chooses: 'max NAME', 'max NAME subject to NAME >= NUMBER', or 'max mean of both'."""
    choose_on: Literal["all", "half"] = "all"
    """'half': the rule sees one half of the groups (authors, articles), the reported numbers come from the other."""
    prune: Prune | None = None
    """Early stopping: none, asha, hyperband or median, or a mapping with its settings."""
    final: list[BenchmarkField] = Field(default_factory=list)
    """Benchmarks measured once, on the checkpoint of a trial that ran to its end, in place of the recipe's. Then the
    recipe's serve the trajectory only and may leave out what is dear, such as generation."""
    keep: int = Field(default=1, ge=0)
    """Checkpoints of the best so many trials are kept; of all others only the records."""
    executor: Literal["in-process", "ray"] = "in-process"
    workers: int | None = Field(default=None, ge=1)
    """Ray only: trials at a time; by default as many as the cluster has room for."""
    address: str | None = None
    """Ray only: a cluster's address, such as ray://host:10001; without one a cluster is started here."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Ray only: what a trial needs: num_cpus, num_gpus, memory (bytes), or resources of your own by name."""

    @field_validator("prune", mode="before")
    @classmethod
    def _prune_by_name(cls, value: Any) -> Any:
        if value == "none":
            return None
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if twice := sorted(set(self.set) & set(self.over)):
            raise ValueError(f"{twice[0]} stands in set and in over; keep one of them")
        if not self.objectives:
            raise ValueError("objectives is empty; name at least one headline, such as forget_quality: up")
        continuous = [key for key, axis in self.over.items() if axis.points() is None]
        if self.sampler == "grid" and continuous:
            raise ValueError(f"over.{continuous[0]}: a grid needs points; add num (or step), or set sampler: random")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"trials: is missing; the sampler {self.sampler} has no end of its own")
        if self.executor != "ray":
            for name in ("workers", "address", "resources"):
                if getattr(self, name):
                    raise ValueError(f"{name} has no effect with executor in-process; set executor: ray")
        _ = self.rule
        return self

    @property
    def rule(self) -> Rule:
        """What chooses."""
        return read_trial_rule(self.select, self.objectives)

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of an all-points sweep, the last axis fastest."""
        points = [axis.points() or [] for axis in self.over.values()]
        return [dict(zip(self.over, values, strict=True)) for values in itertools.product(*points)]

    def trial(self, params: Mapping[str, Any]) -> Recipe:
        """The recipe of one trial.

        Raises:
            ConfigError: A key is none of the recipe's, or a value is not allowed there; all are listed.
        """
        data = copy.deepcopy(self.recipe)
        # As JSON, which is YAML as well, since an override is text.
        override(data, [f"{key}={json.dumps(value)}" for key, value in {**self.set, **params}.items()])
        return parse_recipe(data, source=f"the recipe of sweep {self.name}")

    def resolved(self) -> dict[str, Any]:
        """Every setting, as plain data that loads back to the same sweep."""
        data = self.model_dump(mode="json", exclude_none=True)
        return {**data, "over": {key: axis.plain() for key, axis in self.over.items()}}

    def identity(self) -> dict[str, Any]:
        """The settings that make this sweep what it is: another value means another sweep."""
        return {key: value for key, value in self.resolved().items() if key not in UNIMPORTANT}

    def fingerprint(self) -> str:
        """Name of `identity`."""
        return fingerprint(self.identity())


def load_sweep(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Load a packaged sweep by name or a file by path, with overrides such as `over.train.lr=[1e-5, 2e-5]`.

    Raises:
        ConfigError: Lists every unknown key, wrong type and broken rule, each with its path.
    """
    path = _find(str(name_or_path))
    return parse_sweep(read_yaml(path), overrides, source=str(name_or_path), folder=path.parent)


def parse_sweep(
    data: dict[str, Any], overrides: Sequence[str] = (), *, source: str = "the sweep", folder: Path = Path()
) -> Sweep:
    """Validate plain data as a sweep; the recipe may be a name or a path, also one relative to `folder`.

    Raises:
        ConfigError: Everything that is wrong.
    """
    if isinstance(data.get("over"), dict):
        data = {**data, "over": _flat(data["over"])}
    _override(data, overrides)
    if isinstance(data.get("recipe"), str):
        data["recipe"] = _recipe_data(data["recipe"], folder)
    return parse(data, Sweep, source)


def check_trials(sweep: Sweep) -> list[Recipe]:
    """Validate what the axes can give: every combination of a grid, else the first value or the ends of each axis.

    Raises:
        ConfigError: An axis is no key of the recipe, or one of its values is not allowed; all are listed.
    """
    problems: dict[str, None] = {}
    recipes = []
    for params in sweep.grid() if sweep.sampler == "grid" else _corners(sweep):
        try:
            recipes.append(sweep.trial(params))
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
    if problems:
        raise ConfigError(list(problems), source=f"the trials of sweep {sweep.name}")
    if sweep.prune is not None and not recipes[0].evaluate.every_epoch:
        raise ConfigError(["prune: has nothing to look at with evaluate.every_epoch: false"], source="the sweep")
    return recipes


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, as 'key: old -> new'."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            shown = ["not set" if value is None else json.dumps(value) for value in (before, after)]
            found.append(f"{prefix}{key}: {shown[0]} -> {shown[1]}")
    return found


def _corners(sweep: Sweep) -> list[dict[str, Any]]:
    """Each end of each axis once, the other axes at their first value."""
    ends = {
        key: [*(axis.points() or axis.ends)][:: max(1, len(axis.points() or axis.ends) - 1)]
        for key, axis in sweep.over.items()
    }
    first = {key: values[0] for key, values in ends.items()}
    return [first, *({**first, key: values[-1]} for key, values in ends.items() if len(values) > 1)]


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError([f"the file {name} does not exist"], source="the sweep's name")
        return path
    return registry.packaged("sweep", name)


def _recipe_data(name: str, folder: Path) -> dict[str, Any]:
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        return read_yaml(registry.packaged("recipe", name))
    beside = folder / path
    if not path.is_file() and not beside.is_file():
        raise ConfigError([f"recipe: the file {name} does not exist"], source="the sweep")
    return read_yaml(path if path.is_file() else beside)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys for nested ones; what has the keys of an axis is one."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and value and not set(value) & set(Axis.model_fields):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `key=value`; a key under set or over is one dotted key of the recipe, and null takes it out."""
    problems = []
    for item in overrides:
        part, _, rest = item.partition(".")
        key, equals, text = rest.partition("=")
        if part == "prune" and isinstance(data.get("prune"), str):
            data["prune"] = {"name": data["prune"]}
        try:
            if part in PARTS and equals and key:
                held: dict[str, Any] = {}
                override(held, [f"value={text}"])
                section = {**(data.get(part) or {}), key: held["value"]}
                data[part] = {name: value for name, value in section.items() if value is not None or part == "set"}
            else:
                override(data, [item])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems, source="the overrides")
