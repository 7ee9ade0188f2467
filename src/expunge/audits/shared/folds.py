"""Folds of rows by group, so that nothing is chosen or fitted on the people on whom it is tested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.data.sets import Row
from expunge.errors import DataError


def split_groups(groups: Iterable[str], num_folds: int) -> dict[str, int]:
    """Return the fold of each group; folds have equally many groups, or differ by one.

    Groups are dealt to the folds in the order of their hashes, so the split does not depend on the order of the rows,
    nor on which rows of a group are present.

    Args:
        groups: Names of groups; repeated names count once.
        num_folds: Number of folds; with fewer groups the last folds stay empty.
    """
    ordered = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    return {group: number % num_folds for number, group in enumerate(ordered)}


def group_folds(groups: Sequence[str], num_folds: int) -> list[NDArray[np.bool_]]:
    """Split rows into folds of full groups, and return the mask of each fold's rows, (n,).

    Args:
        groups: Group of each row.
        num_folds: Number of folds; at most one per group is returned.
    """
    fold_of = split_groups(groups, num_folds)
    folds = np.array([fold_of[group] for group in groups], dtype=int)
    return [folds == fold for fold in range(min(num_folds, len(fold_of)))]


def fitted_and_tested(rows: Sequence[Row], num: int = 2) -> list[tuple[list[int], list[int]]]:
    """Return for each fold the indices of the rows on which an attack is fitted, and of those on which it is tested.

    Args:
        rows: Rows; a row without a group is a group of its own.
        num: Number of folds.

    Raises:
        DataError: There are fewer groups than folds.
    """
    names = [row.group or row.id for row in rows]
    count = len(set(names))
    if count < num:
        people = "only one person (group)" if count == 1 else f"only {count} people (groups)"
        raise DataError(
            f"the forget set has rows of {people}, but the attack is fitted on some people and tested on others, which "
            f"needs at least {num}.",
            fix="Give rows of more people, and a group to each row.",
        )
    return [(np.flatnonzero(~fold).tolist(), np.flatnonzero(fold).tolist()) for fold in group_folds(names, num)]
