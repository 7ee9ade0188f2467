"""Measurements with given values and rows, for tests of judgements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.benchmarks.base import Measurement
from expunge.records import BenchmarkResult, Value


def value(point: float, half: float | None = None, n: int = 400, **fields: Any) -> Value:
    """A value with the interval point ± half."""
    ends = {} if half is None else {"low": point - half, "high": point + half}
    return Value(point=point, n=n, **ends, **fields)


def p_value(point: float, n: int = 400, distance: float = 0.1) -> Value:
    """A p-value with its logarithm and the KS distance."""
    return Value(point=point, n=n, extra={"log10": math.log10(point) if point else -412.3, "ks": distance})


def measurement(
    headlines: Mapping[str, Value], metrics: Mapping[str, Value] | None = None, rows: Sequence[dict[str, Any]] = ()
) -> Measurement:
    """The measurement of a model by a benchmark."""
    result = BenchmarkResult(
        benchmark="it",
        role="model",
        model="m",
        model_hash="",
        headlines=dict(headlines),
        metrics=dict(metrics or {}),
    )
    return Measurement(result, rows)


def row(name: str, index: int, **columns: Any) -> dict[str, Any]:
    """A row of a set, in a group of its own unless another is given."""
    return {"set": name, "index": index, "id": f"{name}/{index}", "group": "", **columns}
