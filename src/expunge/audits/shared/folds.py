"""Folds of people: an attack is fitted on some people's rows and tested on others'."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.data.sets import Row
from expunge.errors import DataError


def people_folds(rows: Sequence[Row], num: int = 2) -> list[list[int]]:
    """Split rows into folds such that all rows of a group (a person or a passage) are in one fold.

    The groups are dealt to the folds one after another, in the order of their first rows, so the split depends on the
    data alone.

    Args:
        rows: Rows; a row without a group is a group of its own.
        num: Number of folds.

    Returns:
        The indices of the rows of each fold, ascending.

    Raises:
        DataError: There are fewer groups than folds.
    """
    names = [row.group or row.id for row in rows]
    fold_of = {name: index % num for index, name in enumerate(dict.fromkeys(names))}
    if len(fold_of) < num:
        count = "only one person (group)" if len(fold_of) == 1 else f"only {len(fold_of)} people (groups)"
        raise DataError(
            f"the forget set has rows of {count}, but the attack is fitted on some people and tested on others, which "
            f"needs at least {num}.",
            fix="Give rows of more people, and a group to each row.",
        )
    return [[index for index, name in enumerate(names) if fold_of[name] == fold] for fold in range(num)]
