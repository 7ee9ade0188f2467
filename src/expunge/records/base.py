"""The base class of records, and `Value`, the type of every metric in them."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 2


class Record(BaseModel):
    """Base class of records: frozen, without unknown fields; NaN and infinity survive writing and reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants")


class Value(Record):
    """A metric's value with its confidence interval, or the reason why it is not available."""

    point: float | None
    """Value computed on all samples; None if it is not available."""
    low: float | None = None
    """Lower end of the confidence interval."""
    high: float | None = None
    """Upper end of the confidence interval."""
    no_interval: str = ""
    """Reason why there is no interval, such as too few groups; empty with an interval, or if none was requested."""
    n: int = 0
    """Number of samples used."""
    n_missing: int = 0
    """Number of samples left out because they could not be scored."""
    how: str = ""
    """Description of how the value and the interval were computed."""
    unit: str = ""
    """Unit; empty for a plain ratio."""
    better: str = ""
    """Better direction: 'higher', 'lower', 'retain' (closer to the retain model), or empty if there is none."""
    needs: str = ""
    """Missing input, if `point` is None."""
    extra: dict[str, float] = Field(default_factory=dict)
    """Secondary values of the same computation, such as the test statistic of a p-value."""

    @model_validator(mode="after")
    def _number_or_reason(self) -> Self:
        if (self.point is None) != bool(self.needs):
            raise ValueError("a Value has either `point` or `needs`, not both and not neither")
        return self

    @classmethod
    def missing(cls, needs: str) -> Value:
        """Return a value that is not available because the input `needs` is missing."""
        return cls(point=None, needs=needs)
