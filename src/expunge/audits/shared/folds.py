"""Folds of rows by group, so that a choice is never made on the people on whom it is tested."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.groups import Grouping


def group_folds(groups: Sequence[Hashable], num_folds: int) -> list[NDArray[np.bool_]]:
    """Split rows into folds of full groups, and return the mask of each fold's rows, (n,).

    Args:
        groups: Group of each row.
        num_folds: Number of folds; at most one per group is returned.
    """
    grouping = Grouping.of(groups)
    fold_of = grouping.codes % num_folds
    return [fold_of == fold for fold in range(min(num_folds, grouping.num_groups))]
