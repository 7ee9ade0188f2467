"""Which people each shadow model is trained on: every row is in the training data of half of the models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from expunge.audits.shared.outcomes import forget_rows
from expunge.data.sets import Row, Sets
from expunge.errors import DataError
from expunge.metrics.groups import MIN_GROUPS


@dataclass(frozen=True)
class Shadows:
    """The training data of all shadow models.

    Models 2k and 2k + 1 are trained on the two halves of one random order of the people.
    """

    sets: Sets
    seed: int
    num_retain_rows: int | None
    """Retain rows of each model; None for as many as forget rows."""

    def check(self) -> None:
        """Raise if the people cannot be halved.

        Raises:
            DataError: All forget rows are about one person.
        """
        people = self._people()
        if len(people) < 2:
            raise DataError(
                "the audit lira trains shadow models with and without each person, but the forget set has one only "
                f"('{people[0]}', rows: {len(forget_rows(self.sets))}).",
                allowed=f"At least 2 people (or passages) are needed, and {MIN_GROUPS} for a verdict.",
                fix="Add a column 'group' that names the person of each row, or use a forget set of more people.",
            )

    def members(self, number: int) -> frozenset[str]:
        """Return the people of the forget set on whom model `number` (0-based) is trained."""
        people = self._people()
        order = np.random.default_rng([self.seed, number // 2]).permutation(len(people))
        return frozenset(people[index] for index in order[number % 2 :: 2])

    def training_rows(self, number: int) -> list[Row]:
        """Return the rows that model `number` learns: those of its people, and random retain rows."""
        members = self.members(number)
        rows = [row for row in forget_rows(self.sets) if (row.group or row.id) in members]
        retain = () if self.sets.retain is None else self.sets.retain.rows
        num = len(rows) if self.num_retain_rows is None else self.num_retain_rows
        order = np.random.default_rng([self.seed, number, 1]).permutation(len(retain))
        return [*rows, *(retain[index] for index in order[:num])]

    def _people(self) -> list[str]:
        return sorted({row.group or row.id for row in forget_rows(self.sets)})
