"""Which rows each tier of the audit trains on, and which people are tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from expunge.audits.shared.folds import split_groups
from expunge.audits.shared.outcomes import forget_rows
from expunge.data.sets import Row, Sets
from expunge.data.synthetic.background import world_rows
from expunge.errors import DataError
from expunge.metrics.groups import MIN_GROUPS

Tier = Literal["unrelated", "retain", "all", "shuffled", "forget"] | int
FOLDS = (1, 2)

NOT_COUNTED: dict[Tier, str] = {
    "shuffled": "its training answers are those of other people, so it measures what training on the form alone does",
    "forget": "it trains on the rows that it tests, which teaches them again",
}
"""Tiers that are listed for comparison only, and why."""

_UNRELATED_SEED = 20_240_601


def trains_on_people(tier: Tier) -> bool:
    """Return whether a tier trains on forget rows of the people of one fold, and so needs a training per fold."""
    return isinstance(tier, int) or tier in ("all", "shuffled")


def title(tier: Tier) -> str:
    """Return the name of a tier's attempt."""
    if isinstance(tier, int):
        return f"{tier} row{'s' * (tier > 1)} of other people"
    return {
        "unrelated": "unrelated text",
        "retain": "retain rows",
        "all": "all rows of other people",
        "shuffled": "shuffled rows of other people",
        "forget": "all forget rows",
    }[tier]


def group_of(row: Row) -> str:
    """Return the person or passage of a row; a row without one is on its own."""
    return row.group or row.id


class Halves:
    """The people of the forget set in two halves: one is trained on, the other tested, and the other way round.

    Args:
        sets: Data of the audit.
        seed: Seed of samples and permutations of rows.

    Raises:
        DataError: All rows are about one person.
    """

    def __init__(self, sets: Sets, seed: int) -> None:
        self.sets, self.rows, self.seed = sets, forget_rows(sets).rows, seed
        people = {group_of(row) for row in self.rows}
        if len(people) < len(FOLDS):
            raise DataError(
                "relearning trains on one half of the people and tests on the other, but the forget set has one only "
                f"('{next(iter(people))}', rows: {len(self.rows)}).",
                allowed=f"At least 2 people (or passages) are needed, and {MIN_GROUPS} for a verdict.",
                fix="Add a column 'group' that names the person of each row, or use a forget set of more people.",
            )
        self._fold_of = {group: FOLDS[fold] for group, fold in split_groups(people, len(FOLDS)).items()}

    def fold_of(self, row: Row) -> int:
        """Return the half in which a row is tested, 1 or 2; they have equally many people, or differ by one."""
        return self._fold_of[group_of(row)]

    def has(self, tier: Tier) -> bool:
        """Return whether the data has the rows that a tier trains on."""
        if tier == "retain":
            return bool(self.training("retain", None))
        if tier == "shuffled":
            return min(len({group_of(row) for row in self._others(fold)}) for fold in FOLDS) > 1
        # A tier of as many rows as there are is the tier 'all'.
        return not isinstance(tier, int) or min(len(self._others(fold)) for fold in FOLDS) > tier

    def training(self, tier: Tier, fold: int | None, unrelated: Sequence[Row] | None = None) -> list[Row]:
        """Return the rows that a tier trains on; but for the tier 'forget' none of them is tested.

        Args:
            tier: The tier.
            fold: The half that is tested afterwards; None for tiers that do not train on people of the forget set.
            unrelated: Texts of the tier 'unrelated'; None for statements about invented countries.
        """
        rng = np.random.default_rng([self.seed, fold or 0])
        rows: Sequence[Row]
        if tier == "forget":
            return list(self.rows)
        if tier == "unrelated":
            rows = statements() if unrelated is None else unrelated
        elif tier == "retain":
            rows = () if self.sets.retain is None else self.sets.retain.rows
        elif tier == "shuffled":
            rows = shuffle_answers(self._others(fold), rng)
        elif tier == "all":
            rows = self._others(fold)
        else:
            others = self._others(fold)
            # Smaller samples are part of larger ones.
            rows = [others[index] for index in rng.permutation(len(others))[:tier]]
        tested = {(row.question, row.answer) for row in self.rows if fold in (None, self.fold_of(row))}
        return [row for row in rows if (row.question, row.answer) not in tested]

    def _others(self, fold: int | None) -> list[Row]:
        """Return the rows of the people who are not tested in a fold."""
        return [row for row in self.rows if self.fold_of(row) != fold]


def statements() -> tuple[Row, ...]:
    """Return plain texts that have nothing to do with any forget set: statements about invented countries."""
    return tuple(
        replace(row, question="", answer=f"{row.question} {row.answer}.") for row in world_rows(_UNRELATED_SEED)
    )


def shuffle_answers(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Return the rows with answers of other people: every answer is used once, and few stay with their person.

    The rows are sorted by person and their answers moved on by the size of the largest group, so that no row keeps an
    answer of its own person unless one person has more than half of the rows.
    """
    order = list(rng.permutation(len(rows)))
    people = {group: place for place, group in enumerate(dict.fromkeys(group_of(rows[index]) for index in order))}
    order.sort(key=lambda index: people[group_of(rows[index])])
    sizes = [sum(group_of(row) == group for row in rows) for group in people]
    moved = order[max(sizes) :] + order[: max(sizes)]
    answers = {index: rows[source].answer for index, source in zip(order, moved, strict=True)}
    return [replace(row, answer=answers[index]) for index, row in enumerate(rows)]
