"""Rows of MUSE: chosen by set, compared with a retain model's, read back from a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.errors import DataError, IncompatibleError
from expunge.records import BenchmarkResult
from expunge.rundir import RunDir, read_record


def in_set(rows: Sequence[SampleRow], name: str) -> list[SampleRow]:
    """Rows of one set, in the order of the data."""
    return sorted((row for row in rows if row["set"] == name), key=lambda row: row["index"])


def check_retain_model(
    rows: Sequence[SampleRow],
    retain_model: Sequence[SampleRow],
    settings: Mapping[str, Any],
    retain_settings: Mapping[str, Any],
    sets: Sequence[str],
) -> None:
    """Refuse a retain model with other rows in these sets, or with another tokenizer.

    Raises:
        IncompatibleError: What differs.
    """
    if settings.get("vocab") != retain_settings.get("vocab"):
        raise IncompatibleError(
            f"the retain model has a vocabulary of {retain_settings.get('vocab')} tokens, the model one of "
            f"{settings.get('vocab')}: their Min-40% scores do not compare.",
            fix="Give a retain model that was trained from the same start model.",
        )
    for name in sets:
        ours, theirs = ([row["row_hash"] for row in in_set(part, name)] for part in (rows, retain_model))
        if ours != theirs:
            raise IncompatibleError(
                f"the retain model's rows of {name} are not the rows measured here: here are {len(ours)}, there are "
                f"{len(theirs)}.",
                fix="Measure the retain model on the same path and with the same limit and parts.",
            )


def read_stored(path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
    """Rows and settings of a stored result.

    Raises:
        DataError: It is no result of this benchmark, or its samples are missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    result = read_record(path, BenchmarkResult)
    try:
        rows = pq.read_table(RunDir(path.parent.parent) / (result.samples or "samples")).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: its samples {result.samples or '(none)'} are missing or damaged.",
            fix="Keep results/ and samples/ of a run together.",
        ) from error
    lacking = {"set", "index", "group", "row_hash", "min_k"} - set(rows[0] if rows else ())
    if lacking:
        raise DataError(
            f"{path} is a result of the benchmark '{result.benchmark}', whose samples lack "
            f"{', '.join(sorted(lacking))}.",
            fix="Give a result of the benchmark muse.",
        )
    return rows, dict(result.settings)
