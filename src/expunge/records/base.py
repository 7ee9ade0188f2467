"""The base of all records, and the number that every one of them is made of: a `Value`."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 2


class Record(BaseModel):
    """Base of everything on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Value(Record):
    """One number with its interval, or the reason why there is none."""

    point: float | None
    """The number itself, computed on all samples."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None
    """Upper end of the interval."""
    n: int = 0
    """Samples that the number rests on."""
    n_missing: int = 0
    """Samples that could not be scored and are left out."""
    how: str = ""
    """How number and interval were made, in words."""
    unit: str = ""
    """Unit of the number; empty for a plain ratio."""
    better: str = ""
    """'higher', 'lower', 'retain' (closer to the retain model) or empty when neither is better."""
    needs: str = ""
    """What is missing, when `point` is None."""
    extra: dict[str, float] = Field(default_factory=dict)
    """Companion numbers of the same computation, such as a test's statistic beside its p-value."""

    @model_validator(mode="after")
    def _number_or_reason(self) -> Self:
        if (self.point is None) != bool(self.needs):
            raise ValueError("a Value has either a point or what it needs, never both and never neither")
        return self

    @classmethod
    def missing(cls, needs: str) -> Value:
        """A value that cannot be computed, and what it would need."""
        return cls(point=None, needs=needs)
