"""The `metric` decorator, which attaches a description to a metric function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)

Better = Literal["higher", "lower", "retain", ""]


@dataclass(frozen=True)
class MetricSpec:
    """Description of a metric's values."""

    name: str
    unit: str
    """Unit of the values; empty for a plain ratio."""
    better: Better
    """'higher', 'lower', 'retain' (closer to a retain model), or empty if it depends on the data set."""
    range: tuple[float, float]
    """Smallest and largest possible value."""
    needs: tuple[str, ...] = ()
    """Columns of per-sample rows that a row-wise metric is computed from; empty for metrics of a full set."""


class Metric(Protocol[P, T_co]):
    """A metric function with its description."""

    spec: MetricSpec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Compute the metric."""
        ...


def metric(
    *, unit: str = "", better: Better, range: tuple[float, float], needs: Sequence[str] = ()
) -> Callable[[Callable[P, T_co]], Metric[P, T_co]]:
    """Mark a top-level function as a metric and attach its `spec`.

    A metric of single rows returns one value per row, and papers report the mean over rows. A metric of a full set
    returns a single number. The caller removes missing rows.

    Args:
        unit: Unit of the values; empty for a plain ratio.
        better: Direction in which the values improve.
        range: Smallest and largest possible value.
        needs: Columns of a benchmark's per-sample rows, in the order of the function's arguments. It makes a row-wise
            metric selectable in `evaluate.metrics`: the function is called once per set, with a float array for each
            column of numbers and a list for each other column, and returns one value per row.

    Raises:
        TypeError: The function cannot be called with these columns.

    Example:
        >>> @metric(better="higher", range=(0.0, 1.0), needs=("nll",))
        ... def confident(nll):
        ...     return nll < 1.0
        >>> confident.spec.needs
        ('nll',)
    """

    def attach_spec(function: Callable[P, T_co]) -> Metric[P, T_co]:
        name = function.__name__
        if isinstance(needs, str):
            raise TypeError(f"needs of the metric {name} must be a tuple of columns, such as ({needs!r},)")
        if needs:
            try:
                inspect.signature(function).bind(*needs)
            except TypeError as error:
                raise TypeError(
                    f"the metric {name} needs the columns {', '.join(needs)}, but its arguments differ: {error}"
                ) from error
        described = cast(Metric[P, T_co], function)
        described.spec = MetricSpec(name=name, unit=unit, better=better, range=range, needs=tuple(needs))
        return described

    return attach_spec
