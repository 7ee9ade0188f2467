"""Results in a run folder: records in results/, per-sample rows in samples/."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.benchmarks.base import Measurement, SampleRow
from expunge.console import is_main_process
from expunge.distributed import broadcast_from_main, wait
from expunge.reading import read_parquet
from expunge.records import BenchmarkResult
from expunge.rundir import fingerprint, read_record, write_atomic, write_record

WITHHELD = "(withheld as sensitive)"


def save_result(folder: Path, name: str, result: BenchmarkResult, rows: Sequence[SampleRow]) -> BenchmarkResult:
    """Write a result and its per-sample rows; the result last, so that its presence means that both are complete."""
    samples = f"samples/{name}.parquet"
    result = result.model_copy(update={"samples": samples})
    if is_main_process():
        write_rows(folder / samples, rows)
        write_record(folder / f"results/{name}.json", result)
    wait()
    return result


def load_result(folder: Path, name: str) -> BenchmarkResult | None:
    """Return a result that was saved earlier; None without one."""
    path = folder / f"results/{name}.json"
    return read_record(path, BenchmarkResult) if broadcast_from_main(path.is_file()) else None


def load_measurement(folder: Path, result: BenchmarkResult | None) -> Measurement | None:
    """Return a saved result with its per-sample rows; None without a result."""
    if result is None:
        return None
    return Measurement(result, read_rows(folder / result.samples) if result.samples else [])


def write_rows(path: Path, rows: Sequence[SampleRow]) -> None:
    """Write per-sample rows as Parquet, atomically; a column that a row lacks is null in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(column for row in rows for column in row))
    values = [[row.get(column) for column in columns] for row in rows]
    plain = [
        {key: value.item() if isinstance(value, np.generic) else value for key, value in zip(columns, row, strict=True)}
        for row in values
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain), buffer)
    write_atomic(path, buffer.getvalue())


def read_rows(path: Path) -> list[SampleRow]:
    """Read per-sample rows from a Parquet file.

    Raises:
        DataError: The file is missing or damaged.
    """
    return read_parquet(path)


def without_text(row: SampleRow, digest: Callable[[str], str] = fingerprint) -> SampleRow:
    """Replace the texts of a row by their hashes; rows can still be matched.

    Args:
        row: The row.
        digest: Returns the hash of a text.
    """

    def hashed(value: Any) -> Any:
        if isinstance(value, list):
            return [hashed(item) for item in value]
        return f"{WITHHELD} {digest(value)}" if isinstance(value, str) else value

    return {key: value if key in {"set", "id", "group"} else hashed(value) for key, value in row.items()}
