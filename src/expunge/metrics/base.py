"""What every metric has: a pure function of arrays and a short description of what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)

Better = Literal["higher", "lower", "retain", ""]


@dataclass(frozen=True)
class MetricSpec:
    """What a reader must know to read a metric's number."""

    name: str
    unit: str
    """Unit of the number; empty for a plain ratio."""
    better: Better
    """'higher', 'lower', 'retain' (closer to a retain model) or empty when it depends on the set."""
    range: tuple[float, float]
    """Smallest and largest possible value."""


class Metric(Protocol[P, T_co]):
    """A function that carries its description."""

    spec: MetricSpec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Compute the metric."""
        ...


def metric(
    *, unit: str = "", better: Better, range: tuple[float, float]
) -> Callable[[Callable[P, T_co]], Metric[P, T_co]]:
    """Mark a top-level function as a metric and attach its `spec`.

    A metric of single rows returns one value per row, whose mean over rows is the number in papers;
    a metric of whole sets returns that number itself. Leaving out missing rows is the job of the caller.

    Args:
        unit: Unit of the number; empty for a plain ratio.
        better: Which direction is good.
        range: Smallest and largest possible value.
    """

    def mark(function: Callable[P, T_co]) -> Metric[P, T_co]:
        marked = cast(Metric[P, T_co], function)
        marked.spec = MetricSpec(name=function.__name__, unit=unit, better=better, range=range)
        return marked

    return mark
