"""Confidence intervals in records, and the t interval of a mean over grouped rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from expunge.metrics.groups import Grouping, count_groups, too_few_groups
from expunge.records import Value


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or the reason why there is none."""

    low: float | None
    high: float | None
    how: str = ""
    """Description of the interval, with the number of groups."""
    reason: str = ""
    """Reason why there is no interval; also empty if none was requested."""

    @classmethod
    def missing(cls, reason: str = "") -> Interval:
        """Return the absence of an interval."""
        return cls(None, None, reason=reason)

    def attach(self, value: Value) -> Value:
        """Return the value with this interval, or with the reason why it has none."""
        without = f"no interval: {self.reason}" if self.reason else "no interval"
        return value.model_copy(
            update={
                "low": self.low,
                "high": self.high,
                "how": f"{value.how}; {self.how or without}",
                "no_interval": self.reason,
            }
        )


def mean_interval(values: ArrayLike, groups: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Compute a t interval of the mean of rows in groups.

    Formula: m +- t_nu sqrt(V), with m the mean of all rows, V their `Grouping.variance_of_mean` and nu their
    `Grouping.degrees_of_freedom`. For G groups of equal size this is the t interval of the G group means, with G - 1
    degrees of freedom.

    Args:
        values: One value per row, shape (n,).
        groups: Group of each row; rows of one group may depend on each other.
        level: Coverage.

    Returns:
        The interval; none below five groups.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    array, grouping = np.asarray(values, dtype=np.float64), Grouping.of(groups)
    reason = too_few_groups([grouping])
    if reason:
        return Interval.missing(reason)
    mean = float(array.mean())
    half_width = t_quantile(grouping.degrees_of_freedom, level) * math.sqrt(grouping.variance_of_mean(array))
    how = f"{level:.0%} t interval of the mean, {count_groups([grouping])}"
    if half_width == 0:
        how += " with equal means"
    return Interval(mean - half_width, mean + half_width, how)


def t_quantile(degrees_of_freedom: float, level: float) -> float:
    """Return the quantile of Student's t distribution that bounds a two-sided interval of the given coverage.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    from scipy.special import stdtrit

    check_level(level)
    return float(stdtrit(degrees_of_freedom, (1 + level) / 2))


def check_level(level: float) -> None:
    """Raise if the coverage of an interval is not between 0 and 1.

    Raises:
        ValueError: The coverage is out of range, such as a percentage.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
