"""What is best in a sweep: the rule's score, the ranking, the Pareto front, and the two halves of the questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.benchmarks.base import SampleRow
from expunge.config.selection_rule import Rule
from expunge.errors import ConfigError
from expunge.records import Value
from expunge.records.sweeps import Trial


class CannotCompare(ConfigError):
    """The sweep's settings ask for a number that no trial will have; the sweep ends, not only a trial."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems, source="what the sweep compares")


Score = tuple[int, float]
"""(1 within bounds, 0 outside; how good): compares as tuples do, more is better."""


def number_of(values: Mapping[str, Value], name: str) -> float | None:
    """A headline as the number to compare: log10 for a p-value, which may be too small for a float; None if absent."""
    value = values.get(name)
    if value is None or value.point is None:
        return None
    return value.extra.get("log10", value.point)


def score(values: Mapping[str, Value], rule: Rule) -> Score | None:
    """How good headlines are by a rule; None where a number that the rule needs is missing.

    Outside the rule's bounds the score is the distance to them, so that the nearest is best when none is within.
    """
    points = {name: value.point for name in rule.needs if (value := values.get(name)) and value.point is not None}
    if len(points) < len(set(rule.needs)):
        return None
    if rule.guard and rule.guard_sign * points[rule.guard] < rule.guard_sign * rule.bound:
        return 0, rule.guard_sign * (number_of(values, rule.guard) or 0.0)
    if len(rule.names) > 1:
        return 1, harmonic_mean(list(points.values()))
    return 1, rule.sign * (number_of(values, rule.names[0]) or 0.0)


def harmonic_mean(points: Sequence[float]) -> float:
    """Count / sum_i 1/x_i; 0 where one of them is 0 or below.

    Example:
        >>> harmonic_mean([0.5, 1.0])
        0.6666666666666666
    """
    if min(points) <= 0:
        return 0.0
    return len(points) / math.fsum(1 / point for point in points)


def rank(trials: Sequence[Trial], rule: Rule, objectives: Mapping[str, str]) -> list[int]:
    """Numbers of the complete trials, best first; ties go to the better objectives in turn, then to the earlier trial.

    Trials without a number that the rule needs come last.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        found = score(trial.chosen_on, rule) or (-1, 0.0)
        ties = [_signed(trial, name, direction) for name, direction in objectives.items()]
        return (*found, *ties, -trial.number)

    complete = [trial for trial in trials if trial.state == "complete"]
    return [trial.number for trial in sorted(complete, key=key, reverse=True)]


def rule_as_it_went(trials: Sequence[Trial], rule: Rule) -> str:
    """The rule in words, and what took its place where no trial is within its bounds."""
    scores = [found for trial in trials if trial.state == "complete" and (found := score(trial.chosen_on, rule))]
    if rule.guard and scores and all(within == 0 for within, _ in scores):
        limit = "reached" if rule.guard_sign > 0 else "stayed within"
        return f"the trial nearest to the bound, since none {limit} {rule.guard} of {rule.bound:g}"
    return rule.words


def pareto(trials: Sequence[Trial], objectives: Mapping[str, str]) -> list[int]:
    """Numbers of the complete trials that no other beats: as good in every objective and better in one.

    Trials that lack an objective cannot be compared and are left out.
    """
    points = {
        trial.number: [_signed(trial, name, direction) for name, direction in objectives.items()]
        for trial in trials
        if trial.state == "complete" and all(number_of(trial.chosen_on, name) is not None for name in objectives)
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
    found = number_of(trial.chosen_on, name)
    if found is None:
        return -math.inf
    return found if direction == "up" else -found
