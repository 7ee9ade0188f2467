"""Folds of rows by group, so that nothing is chosen or fitted on the people on whom it is tested."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.data.sets import Row
from expunge.errors import DataError
from expunge.metrics.groups import Grouping


def group_folds(groups: Sequence[Hashable], num_folds: int) -> list[NDArray[np.bool_]]:
    """Split rows into folds of full groups, and return the mask of each fold's rows, (n,).

    Groups are dealt to the folds one after another in the order of their first rows, so the split depends on the data
    alone.

    Args:
        groups: Group of each row.
        num_folds: Number of folds; at most one per group is returned.
    """
    grouping = Grouping.of(groups)
    fold_of = grouping.codes % num_folds
    return [fold_of == fold for fold in range(min(num_folds, grouping.num_groups))]


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
