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
    """The sweep's settings ask for a number that no trial will have; the sweep ends, not only a trial."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems, source="what the sweep compares")


def rank(trials: Sequence[Trial], rule: Rule, objectives: Mapping[str, str]) -> list[int]:
    """Numbers of the complete trials, best first; ties go to the better objectives in turn, then to the earlier trial.

    Trials without a number that the rule needs come last.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        found = rule.score(trial.chosen_on) or (-1, 0.0)
        ties = [_signed(trial, name, direction) for name, direction in objectives.items()]
        return (*found, *ties, -trial.number)

    complete = [trial for trial in trials if trial.state == "complete"]
    return [trial.number for trial in sorted(complete, key=key, reverse=True)]


def pareto(trials: Sequence[Trial], objectives: Mapping[str, str]) -> list[int]:
    """Numbers of the complete trials that no other beats: as good in every objective and better in one.

    Trials that lack an objective cannot be compared and are left out.
    """
    points = {
        trial.number: [_signed(trial, name, direction) for name, direction in objectives.items()]
        for trial in trials
        if trial.state == "complete" and all(comparable(trial.chosen_on, name) is not None for name in objectives)
    }

    def beaten(mine: list[float]) -> bool:
        return any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in points.values())

    return [number for number, mine in points.items() if not beaten(mine)]


def first_half(rows: Sequence[SampleRow], seed: int) -> list[SampleRow]:
    """Rows of the half of each set's groups that a rule may see; the same groups for every model.

    Args:
        rows: Per-sample records with 'set' and 'group'.
        seed: Seed of the draw.

    Raises:
        CannotCompare: A set has fewer than two groups, or the records do not say which group a row belongs to.
    """
    if rows and not {"set", "group", "index"} <= set(rows[0]):
        raise CannotCompare(["choose_on: half needs records with a set, a group and an index for every question"])
    chosen = set()
    for name in dict.fromkeys(row["set"] for row in rows):
        groups = sorted({str(row["group"]) for row in rows if row["set"] == name})
        if len(groups) < 2:
            raise CannotCompare([f"choose_on: half needs two groups in each set, and {name} has {len(groups)}"])
        drawn = np.random.default_rng([seed, len(groups)]).permutation(len(groups))[: math.ceil(len(groups) / 2)]
        chosen |= {(name, groups[i]) for i in drawn}
    return [row for row in rows if (row["set"], str(row["group"])) in chosen]


def same_places(rows: Sequence[SampleRow], like: Sequence[SampleRow]) -> list[SampleRow]:
    """Those rows that stand at the same places of the same sets as other rows."""
    places = {(row["set"], row["index"]) for row in like}
    return [row for row in rows if (row["set"], row["index"]) in places]


def _signed(trial: Trial, name: str, direction: str) -> float:
    found = comparable(trial.chosen_on, name)
    if found is None:
        return -math.inf
    return found if direction == "up" else -found
