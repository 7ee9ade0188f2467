"""One axis of a sweep: the values of a setting, as a list or a range."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, model_validator

from expunge.config.recipe import Section

Number = int | float


class Axis(Section):
    """The values of one setting: a list, `{range: [low, high], step or num}`, or `{log_range: [low, high], num}`.

    Without step and num a range is continuous, and cannot be part of a grid. If both ends of a range are integers,
    its values are integers too.
    """

    values: list[Any] | None = None
    """Values; a list without this key means the same."""
    range: list[Number] | None = None
    """Ends of a linear range, both inclusive."""
    log_range: list[Number] | None = None
    """Ends of a logarithmic range, both inclusive."""
    step: float | None = Field(default=None, gt=0)
    """Distance between the points of a linear range."""
    num: int | None = Field(default=None, ge=1)
    """Number of points of a range."""

    @model_validator(mode="before")
    @classmethod
    def _accept_list(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"values": value}
        if not isinstance(value, dict | Axis):
            raise ValueError(f"must be a list, {{range: [low, high]}} or {{log_range: [low, high]}}, not {value!r}")
        return value

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if sum(values is not None for values in (self.values, self.range, self.log_range)) != 1:
            raise ValueError("set exactly one of a list of values, range and log_range")
        if self.values is not None:
            if not self.values:
                raise ValueError("is empty; list at least one value, or remove the axis")
            if self.step is not None or self.num is not None:
                raise ValueError("step and num have no effect with a list of values")
            return self
        low, high = self.ends
        if low >= high or (self.log_range is not None and low <= 0):
            positive = " above 0" if self.log_range is not None else ""
            raise ValueError(f"needs two numbers{positive} in ascending order (given: [{low:g}, {high:g}])")
        if self.step is not None and (self.num is not None or self.log_range is not None):
            raise ValueError(
                "step has no effect with log_range; set num" if self.log_range else "set only one of step and num"
            )
        return self

    @property
    def ends(self) -> tuple[Number, Number]:
        """Lower and upper end of a range."""
        ends = self.range if self.range is not None else self.log_range or []
        if len(ends) != 2 or not all(math.isfinite(end) for end in ends):
            raise ValueError("a range has two ends, such as [1e-5, 1e-4]")
        return ends[0], ends[1]

    @property
    def is_integer(self) -> bool:
        """Whether both ends of a range are integers."""
        return self.values is None and all(isinstance(end, int) for end in self.ends)

    def points(self) -> list[Any] | None:
        """Return all values; None for a continuous range."""
        if self.values is not None:
            return self.values
        low, high = self.ends
        if self.step is not None:
            count = math.floor((high - low) / self.step + 1e-9) + 1
            values = [low + index * self.step for index in range(count)]
        elif self.num is None:
            return None
        elif self.num == 1:
            values = [low]
        else:
            shares = [index / (self.num - 1) for index in range(self.num)]
            ratio = math.log(high / low) if self.log_range is not None else 0.0
            values = [low * math.exp(share * ratio) if ratio else low + share * (high - low) for share in shares]
        # Rounded to 12 digits, so that 0.1 + 0.2 is 0.3.
        rounded = [float(f"{value:.12g}") for value in values]
        integers = self.is_integer and all(value.is_integer() for value in rounded)
        return [int(value) for value in rounded] if integers else rounded

    def plain(self) -> Any:
        """Return the axis as it is written in YAML."""
        return self.values if self.values is not None else self.model_dump(mode="json", exclude_none=True)
