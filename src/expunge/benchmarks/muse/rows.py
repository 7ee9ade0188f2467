"""MUSE's rows: selection by set, comparison with the retain model's, and reading of stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.errors import DataError, IncompatibleError
from expunge.records import BenchmarkResult
from expunge.rundir import RunDir, read_record

VERBMEM, FORGET_QA, RETAIN_QA = "verbmem/forget", "knowmem/forget_qa", "knowmem/retain_qa"
FORGET, HOLDOUT = "privleak/forget", "privleak/holdout"
QUESTIONS = (FORGET_QA, RETAIN_QA)


def in_set(rows: Sequence[SampleRow], name: str) -> list[SampleRow]:
    """Return the rows of one set, in the order of the data."""
    return sorted((row for row in rows if row["set"] == name), key=lambda row: row["index"])


def check_same_texts(rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> None:
    """Raise if the retain model's forget or holdout texts are not the texts measured here.

    Raises:
        IncompatibleError: The set, and the number of rows on both sides.
    """
    for name in (FORGET, HOLDOUT):
        ours, theirs = ([row["row_hash"] for row in in_set(side, name)] for side in (rows, retain_model))
        if ours != theirs:
            raise IncompatibleError(
                f"the retain model's rows of {name} are not the rows measured here: {len(theirs)} there, {len(ours)} "
                "here.",
                fix="Measure the retain model on the same path and with the same limit and parts.",
            )


def read_stored(path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
    """Return rows and settings of a stored result.

    Raises:
        DataError: It is not a result of this benchmark, or its samples are missing or damaged.
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
    missing = {"set", "index", "group", "row_hash", "min_k"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(
            f"{path} is a result of the benchmark '{result.benchmark}', whose samples lack "
            f"{', '.join(sorted(missing))}.",
            fix="Give a result of the benchmark muse.",
        )
    return rows, dict(result.settings)
