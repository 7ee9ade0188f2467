"""The sweep: a recipe, the settings to vary, and how trials are sampled, run, pruned and selected."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from expunge.config.axes import Axis
from expunge.config.load import find_file, override, parse, parse_recipe, read_yaml
from expunge.config.members import BenchmarkField
from expunge.config.recipe import Recipe, Section
from expunge.config.selection_rule import Rule, read_trial_rule
from expunge.errors import ConfigError
from expunge.rundir import fingerprint

DOTTED = ("set", "over")
"""Sections whose keys are dotted keys of the recipe."""
OBJECTIVES: dict[str, Literal["up", "down"]] = {"forget_quality": "up", "model_utility": "up"}
UNIMPORTANT = ("description", "trials", "max_hours", "keep", "executor", "workers", "address", "resources")
"""Settings that change no trial, so that a sweep can resume with other values."""


class Prune(Section):
    """Early stopping of trials, between epochs."""

    name: Literal["asha", "hyperband", "median"]
    """Optuna's SuccessiveHalvingPruner (asynchronous successive halving), HyperbandPruner or MedianPruner."""
    min_epochs: int = Field(default=1, ge=1)
    """First epoch after which a trial can be stopped; for asha and hyperband the first rung."""
    factor: int | None = Field(default=None, ge=2)
    """asha and hyperband: one trial in `factor` continues beyond a rung (Optuna's defaults: 4 and 3)."""
    watch: str | None = None
    """Headline that is compared after each epoch; null: the score of the rule."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if self.name == "median" and self.factor is not None:
            raise ValueError("factor has no effect with median")
        return self


class Sweep(Section):
    """Many trials of one recipe, and the rule that selects the best."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep; its folder is runs/sweep-<name>."""
    description: str = ""
    recipe: dict[str, Any]
    """Name of a packaged recipe, a YAML file, or the recipe itself."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value in all trials; the value of a section replaces the section of the recipe."""
    over: dict[str, Axis] = Field(min_length=1)
    """Dotted key -> values to try."""
    sampler: Literal["grid", "random", "tpe", "gp", "nsgaii"] = "grid"
    """Choice of trials: all combinations, random ones, or a sampler of Optuna (tpe, gp, nsgaii)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler, of the order of a pruned grid, and of the halves; the seed of a trial is in its recipe."""
    trials: int | None = Field(default=None, ge=1)
    """Most trials; optional for a grid, which is finite."""
    max_hours: float | None = Field(default=None, gt=0)
    """Hours after which no further trial is started."""
    objectives: dict[str, Literal["up", "down"]] = Field(default=OBJECTIVES)
    """Headline -> direction in which it improves; the axes of the Pareto front."""
    select: str = "max forget_quality"
    """Rule that selects the best trial: 'max NAME', 'max NAME subject to NAME >= NUMBER', or 'max mean of both'."""
    choose_on: Literal["all", "half"] = "all"
    """'half': select on one half of the groups (authors, articles), and report the other half."""
    prune: Prune | None = None
    """Early stopping: none, asha, hyperband or median, or {name: ..., <settings>}."""
    final: list[BenchmarkField] = Field(default_factory=list)
    """Benchmarks for the final checkpoints of complete trials. The recipe's benchmarks are then only measured during
    training, and may skip expensive parts such as generation."""
    keep: int = Field(default=1, ge=0)
    """Number of best trials whose checkpoints are saved; of all others only the records are."""
    executor: Literal["in-process", "ray"] = "in-process"
    """Run trials one after the other in this process, or in parallel on a Ray cluster."""
    workers: int | None = Field(default=None, ge=1)
    """Ray only: number of parallel trials; null: as many as the cluster has resources for."""
    address: str | None = None
    """Ray only: address of the cluster, such as ray://host:10001; null: start one on this machine."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Ray only: resources of a trial: num_cpus, num_gpus, memory (bytes), or custom resources by name."""

    @field_validator("prune", mode="before")
    @classmethod
    def _prune_by_name(cls, value: Any) -> Any:
        if value == "none":
            return None
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if repeated := sorted(set(self.set) & set(self.over)):
            raise ValueError(f"{repeated[0]} is listed in both set and over; remove one of them")
        if not self.objectives:
            raise ValueError("objectives: is empty; list at least one headline, such as forget_quality: up")
        continuous = [key for key, axis in self.over.items() if axis.points() is None]
        if self.sampler == "grid" and continuous:
            raise ValueError(
                f"over.{continuous[0]}: a grid needs finitely many values; add num (or step), or set sampler"
            )
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"trials: is missing; the sampler {self.sampler} never ends by itself")
        if self.executor != "ray":
            for name in ("workers", "address", "resources"):
                if getattr(self, name):
                    raise ValueError(f"{name} has no effect with executor in-process; set executor: ray")
        _ = self.rule
        return self

    @property
    def rule(self) -> Rule:
        """The rule that selects the best trial."""
        return read_trial_rule(self.select, self.objectives)

    def grid(self) -> list[dict[str, Any]]:
        """Return all combinations of the axes, the last axis varying fastest."""
        points = [axis.points() or [] for axis in self.over.values()]
        return [dict(zip(self.over, values, strict=True)) for values in itertools.product(*points)]

    def trial(self, params: Mapping[str, Any]) -> Recipe:
        """Return the recipe of one trial.

        Args:
            params: Dotted key of the recipe -> value.

        Raises:
            ConfigError: A key is not in the recipe, or a value is not allowed; all are listed.
        """
        data = copy.deepcopy(self.recipe)
        # An override is a string with a YAML value, and JSON is YAML.
        override(data, [f"{key}={json.dumps(value)}" for key, value in {**self.set, **params}.items()])
        return parse_recipe(data, source=f"the recipe of sweep {self.name}")

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain data, from which the same sweep can be loaded."""
        data = self.model_dump(mode="json", exclude_none=True)
        return {**data, "over": {key: axis.plain() for key, axis in self.over.items()}}

    def identity(self) -> dict[str, Any]:
        """Return the settings that identify the sweep: other values make another sweep."""
        return {key: value for key, value in self.resolved().items() if key not in UNIMPORTANT}

    def fingerprint(self) -> str:
        """Return a hash of `identity`."""
        return fingerprint(self.identity())


def load_sweep(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Load a packaged sweep by name or a file by path, with overrides such as `over.train.lr=[1e-5, 2e-5]`.

    Raises:
        ConfigError: Lists every unknown key, wrong type and violated rule, each with its path.
    """
    path = find_file("sweep", str(name_or_path))
    return parse_sweep(read_yaml(path), overrides, source=str(name_or_path), folder=path.parent)


def parse_sweep(
    data: dict[str, Any], overrides: Sequence[str] = (), *, source: str = "the sweep", folder: Path = Path()
) -> Sweep:
    """Validate plain data as a sweep.

    Args:
        data: The settings; the recipe may be a mapping, a name or a path.
        overrides: Settings such as 'over.train.lr=[1e-5, 2e-5]'.
        source: Where the data comes from, for messages.
        folder: Folder to which the recipe's path may be relative.

    Raises:
        ConfigError: Lists every unknown key, wrong type and violated rule, each with its path.
    """
    if isinstance(data.get("over"), dict):
        data = {**data, "over": _flat(data["over"])}
    _override(data, overrides)
    if isinstance(data.get("recipe"), str):
        data["recipe"] = read_yaml(find_file("recipe", data["recipe"], folder))
    return parse(data, Sweep, source)


def check_trials(sweep: Sweep) -> list[Recipe]:
    """Validate the recipes of all trials of a grid; for other samplers those at the ends of each axis.

    Returns:
        The recipes that were validated.

    Raises:
        ConfigError: An axis is not a key of the recipe, or one of its values is not allowed; all are listed.
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
        raise ConfigError(["prune: needs evaluate.every_epoch: true, because it compares epochs"], source="the sweep")
    return recipes


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ, as 'key: old -> new'."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            shown = ["not set" if value is None else json.dumps(value) for value in (before, after)]
            lines.append(f"{prefix}{key}: {shown[0]} -> {shown[1]}")
    return lines


def _corners(sweep: Sweep) -> list[dict[str, Any]]:
    """Return each end of each axis once, with the other axes at their first value."""
    ends = {
        key: [*(axis.points() or axis.ends)][:: max(1, len(axis.points() or axis.ends) - 1)]
        for key, axis in sweep.over.items()
    }
    first = {key: values[0] for key, values in ends.items()}
    return [first, *({**first, key: values[-1]} for key, values in ends.items() if len(values) > 1)]


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Replace nested keys by dotted ones; a mapping with a key of `Axis` is an axis."""
    axes: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and value and not set(value) & set(Axis.model_fields):
            axes |= _flat(value, f"{prefix}{key}.")
        else:
            axes[f"{prefix}{key}"] = value
    return axes


def _override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `key=value` overrides; a key after `set.` or `over.` is one dotted key, and null removes an axis."""
    problems = []
    for item in overrides:
        section, _, rest = item.partition(".")
        key, equals, text = rest.partition("=")
        if section == "prune" and isinstance(data.get("prune"), str):
            data["prune"] = {"name": data["prune"]}
        try:
            if section in DOTTED and equals and key:
                parsed: dict[str, Any] = {}
                override(parsed, [f"value={text}"])
                values = {**(data.get(section) or {}), key: parsed["value"]}
                if section == "over":
                    values = {name: value for name, value in values.items() if value is not None}
                data[section] = values
            else:
                override(data, [item])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems, source="the overrides")
