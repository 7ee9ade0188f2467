"""Metrics that a recipe selects (`evaluate.metrics`), computed from the per-sample rows of any benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expunge import registry
from expunge.benchmarks.base import Benchmark, SampleRow
from expunge.benchmarks.shared.mean import MeanSpec, mean_value
from expunge.errors import DataError
from expunge.metrics.base import MetricSpec
from expunge.records import Label, Value


def row_metrics(
    names: Sequence[str],
    benchmark: Benchmark,
    rows: Sequence[SampleRow],
    reported: Mapping[str, Value],
    *,
    withheld: bool,
    resamples: int,
    seed: int,
) -> dict[str, Value]:
    """Compute the selected metrics on every set whose rows have the columns that they need.

    Args:
        names: Names of packaged metrics, or paths of Python files.
        benchmark: The benchmark that was measured.
        rows: Its per-sample rows, with 'set' and 'group'; a row without a group is its own group.
        reported: Metrics of the benchmark itself, which are not computed again.
        withheld: Whether the texts of the rows are replaced by hashes.
        resamples: Bootstrap resamples over groups; 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        '<set>/<metric>' -> mean over the rows of the set. Rows that lack a value are counted as missing.

    Raises:
        DataError: The rows lack a column, the function failed or did not return one value per row, or a user's metric
            has the name of a metric that the benchmark reports itself.
    """
    by_set: dict[str, list[SampleRow]] = {}
    for row in rows:
        by_set.setdefault(str(row.get("set", "")), []).append(row)
    values: dict[str, Value] = {}
    for name in names if rows else ():
        function = registry.get("metric", name)
        spec: MetricSpec = function.spec
        if not _has_columns(benchmark, rows, spec):
            continue
        for set_name, set_rows in by_set.items():
            key = f"{set_name}/{spec.name}" if set_name else spec.name
            if key not in reported:
                hashed = withheld and any(isinstance(row.get(column), str) for row in set_rows for column in spec.needs)
                missing = "texts, which are not stored for sensitive data"
                values[key] = mean_value(
                    [None] * len(set_rows)
                    if hashed
                    else _scores(function, set_rows, f"'{set_name}' of {benchmark.key}"),
                    [row.get("group") or index for index, row in enumerate(set_rows)],
                    MeanSpec(
                        how=f"mean of {spec.name} over rows",
                        better=spec.better,
                        needs=missing if hashed else f"rows with values in the columns {', '.join(spec.needs)}",
                        unit=spec.unit,
                    ),
                    resamples=resamples,
                    seed=seed,
                )
            elif name.endswith(".py"):
                raise DataError(
                    f"evaluate.metrics: {name} defines '{spec.name}', but {benchmark.key} reports {key} itself.",
                    fix="Rename the function.",
                )
    return values


def row_metric_labels(names: Sequence[str]) -> dict[str, Label]:
    """Return the presentation of the selected metrics, by the names of their functions."""
    functions = [registry.get("metric", name) for name in names]
    return {
        function.spec.name: Label(
            title=function.spec.name.replace("_", " "),
            explain=(function.__doc__ or "").strip().split("\n", 1)[0],
            unit=function.spec.unit,
            better=function.spec.better,
        )
        for function in functions
    }


def _has_columns(benchmark: Benchmark, rows: Sequence[SampleRow], spec: MetricSpec) -> bool:
    """Return whether the benchmark has the columns that a metric needs; the recipe's check requires one that has.

    Raises:
        DataError: The benchmark does not declare its columns, so that this could not be checked before.
    """
    declared = benchmark.columns()
    available = list(declared or dict.fromkeys(column for row in rows for column in row))
    lacking = [column for column in spec.needs if column not in available]
    if lacking and not declared:
        raise DataError(
            f"evaluate.metrics: '{spec.name}' needs the columns {', '.join(spec.needs)}, and the rows of "
            f"{benchmark.key} lack {', '.join(lacking)}.",
            allowed=f"Columns of {benchmark.key}: {', '.join(available)}.",
            fix="Leave the metric out, or add the columns to the rows. If another benchmark has them, declare those of "
            "this benchmark in `columns`.",
        )
    return not lacking


def _scores(function: Any, rows: Sequence[SampleRow], where: str) -> list[float | None]:
    """Return one value per row; None for rows that lack one of the columns and for values that are not finite."""
    spec: MetricSpec = function.spec
    scores: list[float | None] = [None] * len(rows)
    present = [index for index, row in enumerate(rows) if all(_is_present(row.get(name)) for name in spec.needs)]
    if not present:
        return scores
    try:
        values = np.asarray(function(*(_column([rows[i][name] for i in present]) for name in spec.needs)), np.float64)
    except Exception as error:
        raise DataError(
            f"evaluate.metrics: '{spec.name}' failed on the set {where}: {type(error).__name__}: {error}.",
            fix="Correct the function; --debug shows the traceback.",
        ) from error
    if values.shape != (len(present),):
        raise DataError(
            f"evaluate.metrics: '{spec.name}' returned shape {values.shape} on the set {where}.",
            fix=f"Return one value per row, here shape ({len(present)},).",
        )
    for index, value in zip(present, values.tolist(), strict=True):
        scores[index] = value if math.isfinite(value) else None
    return scores


def _is_present(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(_is_present(item) for item in value)
    # NaN is the only value that differs from itself.
    return value is not None and value == value


def _column(values: list[Any]) -> Any:
    """Return numbers as a float array and everything else as a list."""
    numeric = all(isinstance(value, bool | int | float | np.number) for value in values)
    return np.array(values, dtype=np.float64) if numeric else values
