"""Ranking of trials, the Pareto front, and the two halves of the questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.benchmarks.base import SampleRow
from expunge.config.selection_rule import Rule, comparable
from expunge.errors import ConfigError
from expunge.records.sweeps import Trial


class CannotCompare(ConfigError):
    """Trials lack a headline that the sweep compares; this ends the sweep, not only a trial."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems, source="the headlines that the sweep compares")


def rank(trials: Sequence[Trial], rule: Rule, objectives: Mapping[str, str]) -> list[int]:
    """Return the numbers of the complete trials, best first.

    Ties are resolved by the objectives in order, then by the earlier trial. Trials without a headline that the rule
    needs come last.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        score = rule.score(trial.chosen_on) or (-1, 0.0)
        ties = [_signed(trial, name, direction) for name, direction in objectives.items()]
        return (*score, *ties, -trial.number)

    complete = [trial for trial in trials if trial.state == "complete"]
    return [trial.number for trial in sorted(complete, key=key, reverse=True)]


def pareto(trials: Sequence[Trial], objectives: Mapping[str, str]) -> list[int]:
    """Return the numbers of the trials on the Pareto front: no other is as good in every objective and better in one.

    Trials that lack an objective are left out.
    """
    points = {
        trial.number: [_signed(trial, name, direction) for name, direction in objectives.items()]
        for trial in trials
        if trial.state == "complete" and all(comparable(trial.chosen_on, name) is not None for name in objectives)
    }

    def dominated(values: list[float]) -> bool:
        return any(
            all(a >= b for a, b in zip(other, values, strict=True)) and other != values for other in points.values()
        )

    return [number for number, values in points.items() if not dominated(values)]


def first_half(rows: Sequence[SampleRow], seed: int) -> list[SampleRow]:
    """Return the rows of half of each set's groups, on which the rule selects; the same groups for every model.

    Args:
        rows: Per-sample records with 'set' and 'group'.
        seed: Seed of the random half.

    Raises:
        CannotCompare: A set has fewer than two groups, or the rows have no groups.
    """
    if rows and not {"set", "group", "index"} <= set(rows[0]):
        raise CannotCompare(["choose_on: half needs records with a set, a group and an index for every question"])
    chosen = set()
    for name in dict.fromkeys(row["set"] for row in rows):
        groups = sorted({str(row["group"]) for row in rows if row["set"] == name})
        if len(groups) < 2:
            raise CannotCompare([f"choose_on: half needs two groups in each set, and {name} has {len(groups)}"])
        sampled = np.random.default_rng([seed, len(groups)]).permutation(len(groups))[: math.ceil(len(groups) / 2)]
        chosen |= {(name, groups[i]) for i in sampled}
    return [row for row in rows if (row["set"], str(row["group"])) in chosen]


def matching_rows(rows: Sequence[SampleRow], like: Sequence[SampleRow]) -> list[SampleRow]:
    """Return the rows with the same set and index as the rows of another model."""
    positions = {(row["set"], row["index"]) for row in like}
    return [row for row in rows if (row["set"], row["index"]) in positions]


def _signed(trial: Trial, name: str, direction: str) -> float:
    number = comparable(trial.chosen_on, name)
    if number is None:
        return -math.inf
    return number if direction == "up" else -number
