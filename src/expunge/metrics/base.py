"""The `metric` decorator, which attaches a description to a metric function."""

from __future__ import annotations

from collections.abc import Callable
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


class Metric(Protocol[P, T_co]):
    """A metric function with its description."""

    spec: MetricSpec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Compute the metric."""
        ...


def metric(
    *, unit: str = "", better: Better, range: tuple[float, float]
) -> Callable[[Callable[P, T_co]], Metric[P, T_co]]:
    """Mark a top-level function as a metric and attach its `spec`.

    A metric of single rows returns one value per row, and papers report the mean over rows. A metric of a full set
    returns a single number. The caller removes missing rows.

    Args:
        unit: Unit of the values; empty for a plain ratio.
        better: Direction in which the values improve.
        range: Smallest and largest possible value.
    """

    def attach_spec(function: Callable[P, T_co]) -> Metric[P, T_co]:
        described = cast(Metric[P, T_co], function)
        described.spec = MetricSpec(name=function.__name__, unit=unit, better=better, range=range)
        return described

    return attach_spec
