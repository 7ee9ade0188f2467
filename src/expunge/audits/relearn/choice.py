"""Choose the worst case of each tier on one half of the people, and confirm it on the other half."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from expunge.audits.base import AUDITED, BEFORE, Attempt
from expunge.audits.relearn.tiers import FOLDS, NOT_COUNTED, Tier, title
from expunge.audits.shared.findings import Rule
from expunge.records import Cost

FOLD = "fold"
"""Column of a row: the half of the people in which it is tested, 1 or 2."""


@dataclass(frozen=True)
class Grid:
    """All trainings of an audit, and when each is measured."""

    tiers: Sequence[Tier]
    settings: Sequence[str]
    steps: Sequence[int]
    measures: Sequence[str]


@dataclass(frozen=True)
class Choice:
    """A setting of the grid and a number of steps."""

    setting: str
    step: int


def attempt_name(tier: Tier, setting: str, step: int) -> str:
    """Return the name of one measurement of one training; both halves of the people have the same."""
    return f"{title(tier)}, {setting}, step {step}"


def confirm(
    attempts: Mapping[str, Sequence[Attempt]], grid: Grid, rule: Rule
) -> tuple[dict[str, list[Attempt]], list[str]]:
    """Return one attempt per tier and measure for every model, and notes for the reader.

    For each half of the people, the setting and the number of steps are those with the largest D on the other half
    among those within the bound on lost utility; if none is within it, among all. All models have the same choice.

    Args:
        attempts: Arm -> the model as it is (BEFORE), and every measurement of every training.
        grid: The trainings.
        rule: Its bound on lost utility applies.
    """
    chosen = {arm: [each for each in found if each.name == BEFORE] for arm, found in attempts.items()}
    notes: list[str] = []
    for measure in grid.measures:
        tables = {arm: Table(found, measure) for arm, found in attempts.items()}
        comparison = Comparison(tables, grid, rule)
        tiers = [tier for tier in grid.tiers if comparison.has(tier)]
        effects: dict[Tier, float] = {}
        for tier in tiers:
            # Shuffled answers are compared with true ones at the same settings.
            choices = comparison.choose("all" if tier == "shuffled" else tier)
            effects[tier] = comparison.effect({fold: _name(tier, choice) for fold, choice in choices.items()})
            for arm, table in tables.items():
                chosen[arm].append(table.joined(tier, choices, grid))
            chosen[AUDITED][-1] = replace(chosen[AUDITED][-1], facts=comparison.facts(tier, choices))
        if "shuffled" in effects:
            _add_shuffled(chosen[AUDITED], measure, effects["shuffled"])
            notes.append(
                f"Relearning with shuffled answers has an effect of {effects['shuffled']:+.3f}, with the true ones "
                f"{effects['all']:+.3f} ({measure})."
            )
        notes += [_left_out(tier) for tier in grid.tiers if tier not in tiers]
    if all(len(rows) == 1 for rows in _rows_by_group(chosen[AUDITED]).values()):
        notes.append(
            "Each row is a group of its own, so the rows trained on may contain facts about the tested ones. Name the "
            "person of each row in a column 'group'."
        )
    return chosen, list(dict.fromkeys(notes))


class Table:
    """The attempts on one model with one measure, by name and half of the people.

    Args:
        attempts: The attempts on the model.
        measure: The measure.
    """

    def __init__(self, attempts: Sequence[Attempt], measure: str) -> None:
        self._parts: dict[tuple[str, int], Attempt] = {}
        for attempt in attempts:
            if attempt.measure == measure:
                for fold in {row[FOLD] for row in attempt.rows}:
                    rows = [row for row in attempt.rows if row[FOLD] == fold]
                    self._parts[attempt.name, int(fold)] = replace(attempt, rows=rows)

    def has(self, name: str) -> bool:
        """Return whether both halves were measured in an attempt."""
        return all((name, fold) in self._parts for fold in FOLDS)

    def part(self, name: str, fold: int) -> Attempt:
        """Return an attempt with the rows of one half."""
        return self._parts[name, fold]

    def scores(self, name: str, fold: int) -> dict[str, float]:
        """Return the score of each row of one half that could be measured."""
        rows = self._parts[name, fold].rows
        return {str(row["id"]): float(row["score"]) for row in rows if row.get("score") is not None}

    def joined(self, tier: Tier, choices: Mapping[int, Choice], grid: Grid) -> Attempt:
        """Return the attempt on all people, each half with its own choice; the cost is that of the costlier half."""
        parts = {fold: self.part(_name(tier, choice), fold) for fold, choice in choices.items()}
        utilities = [part.utility for part in parts.values() if part.utility is not None]
        seconds = [
            # Each measurement states the seconds since the one before, in equal shares of the measures.
            len(grid.measures)
            * sum(
                self.part(attempt_name(tier, choice.setting, step), fold).cost.seconds
                for step in grid.steps
                if step <= choice.step
            )
            for fold, choice in choices.items()
        ]
        costs = [part.cost for part in parts.values()]
        return Attempt(
            title(tier),
            [row for part in parts.values() for row in part.rows],
            next(iter(parts.values())).measure,
            Cost(
                rows=max(cost.rows for cost in costs),
                steps=max(cost.steps for cost in costs),
                passes=max(cost.passes for cost in costs),
                seconds=round(max(seconds), 3),
            ),
            float(np.mean(utilities)) if utilities else None,
            NOT_COUNTED.get(tier, ""),
        )


class Comparison:
    """The unlearned model against the retain model, or against itself before the attack, with one measure.

    Args:
        tables: Arm -> its attempts.
        grid: The trainings.
        rule: Its bound on lost utility applies.
    """

    def __init__(self, tables: Mapping[str, Table], grid: Grid, rule: Rule) -> None:
        self._tables, self._grid, self._rule = tables, grid, rule

    def has(self, tier: Tier) -> bool:
        """Return whether a tier was run."""
        return self._tables[AUDITED].has(attempt_name(tier, self._grid.settings[0], self._grid.steps[0]))

    def choose(self, tier: Tier) -> dict[int, Choice]:
        """Return for each half of the people the choice that has the largest D on the other half."""
        every = [Choice(setting, step) for setting in self._grid.settings for step in self._grid.steps]
        chosen = {}
        for fold in FOLDS:
            other = next(each for each in FOLDS if each != fold)
            allowed = [each for each in every if self._is_useful(_name(tier, each), other)] or every
            chosen[fold] = max(allowed, key=lambda each: self.effect({other: _name(tier, each)}))
        return chosen

    def effect(self, names: Mapping[int, str]) -> float:
        """Return D over the rows of the given halves; the mean rise without a retain model, -inf without any row.

        Args:
            names: Half of the people -> name of the attempt.
        """
        values = [value for fold, name in names.items() for value in self._effects(name, fold)]
        return float(np.mean(values)) if values else -math.inf

    def facts(self, tier: Tier, choices: Mapping[int, Choice]) -> dict[str, float]:
        """Return the facts of a tier's finding, as documented in the audit's class."""
        table, grid = self._tables[AUDITED], self._grid
        facts: dict[str, float] = {}
        for fold, choice in choices.items():
            facts[f"chosen_step_{fold}"] = float(choice.step)
            facts[f"chosen_lr_{fold}"] = table.part(_name(tier, choice), fold).facts["lr"]
        steps, curve = [0, *grid.steps], [0.0]
        for step in grid.steps:
            names = {fold: attempt_name(tier, choice.setting, step) for fold, choice in choices.items()}
            curve.append(self.effect(names))
        facts |= {f"step_{step}": value for step, value in zip(steps, curve, strict=True)}
        trapezoids = [
            (after - before) * (low + high) / 2
            for before, after, low, high in zip(steps[:-1], steps[1:], curve[:-1], curve[1:], strict=True)
        ]
        facts["area"] = sum(trapezoids) / steps[-1]
        for setting in grid.settings:
            facts[f"largest_{setting}"] = max(
                self.effect(dict.fromkeys(FOLDS, attempt_name(tier, setting, step))) for step in grid.steps
            )
        half = self._half()
        reached = [step for step, value in zip(steps, curve, strict=True) if half is not None and value >= half]
        if reached:
            facts["steps_to_half"] = float(reached[0])
        return {name: value for name, value in facts.items() if math.isfinite(value)}

    def _half(self) -> float | None:
        """Return the D at which the excess is half of the target's before any attack; None without both controls."""
        if "target" not in self._tables or "retain" not in self._tables:
            return None
        known, left = self._excess_before("target"), self._excess_before(AUDITED)
        return None if known is None or left is None or known <= 0 else known / 2 - left

    def _excess_before(self, arm: str) -> float | None:
        values = []
        for fold in FOLDS:
            ours, theirs = (self._tables[each].scores(BEFORE, fold) for each in (arm, "retain"))
            values += [ours[row] - theirs[row] for row in ours if row in theirs]
        return float(np.mean(values)) if values else None

    def _effects(self, name: str, fold: int) -> list[float]:
        signs = {AUDITED: 1, "retain": -1} if "retain" in self._tables else {AUDITED: 1}
        rises = []
        for arm, sign in signs.items():
            after, before = (self._tables[arm].scores(each, fold) for each in (name, BEFORE))
            rises.append({row: sign * (after[row] - before[row]) for row in after if row in before})
        return [sum(rise[row] for rise in rises) for row in rises[0] if all(row in rise for rise in rises)]

    def _is_useful(self, name: str, fold: int) -> bool:
        table = self._tables[AUDITED]
        after, before = table.part(name, fold).utility, table.part(BEFORE, fold).utility
        return after is None or not before or 1 - after / before <= self._rule.utility_loss


def _name(tier: Tier, choice: Choice) -> str:
    return attempt_name(tier, choice.setting, choice.step)


def _add_shuffled(attempts: list[Attempt], measure: str, effect: float) -> None:
    """Add the effect of shuffled answers to the facts of the tier with the true ones."""
    for index, attempt in enumerate(attempts):
        if (attempt.name, attempt.measure) == (title("all"), measure):
            attempts[index] = replace(attempt, facts={**attempt.facts, "shuffled": effect})


def _left_out(tier: Tier) -> str:
    reason = {
        "retain": "the data has no retain set",
        "shuffled": "it needs two people in each half",
    }.get(str(tier), "each half of the people needs more rows than that")
    return f"Relearning on {title(tier)} is left out: {reason}."


def _rows_by_group(attempts: Sequence[Attempt]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for attempt in attempts:
        for row in attempt.rows:
            found.setdefault(str(row["group"]), set()).add(str(row["id"]))
    return found
