"""Search the per-sample rows and transcripts of a run, read column by column from Parquet.

Indices are exchanged between pyarrow and numpy by `from_dlpack` and `from_buffers`: `pa.array` and `to_numpy` import
pandas, if it is installed, which takes half a second and 60 MB.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expunge.errors import DataError
from expunge.records.format import format_number

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Page:
    """Some of the rows that match a search."""

    total: int
    """Rows of the file."""
    matches: int
    start: int
    rows: list[dict[str, Any]]
    """Column -> text; columns without a value are left out. 'row' is the number of the row in its file, from 1."""


def num_rows(path: Path) -> int:
    """Return the number of rows of a file.

    Raises:
        DataError: The file is damaged.
    """
    return int(_open(path).metadata.num_rows)


def search(path: Path, query: str, start: int, size: int) -> Page:
    """Return a page of the rows whose texts contain all words of the query, in any column, in upper or lower case.

    Args:
        path: The Parquet file.
        query: Words; without any, all rows match.
        start: Index of the first row of the page among the matches.
        size: Rows of a page.

    Raises:
        DataError: The file is damaged.
    """
    file = _open(path)
    words = tuple(dict.fromkeys(query.lower().split()))
    matches = _matches(path, path.stat().st_mtime_ns, words)
    indices = matches[start : start + size]
    positions = pa.Array.from_buffers(pa.int64(), len(indices), [None, pa.py_buffer(indices)])
    rows: list[dict[str, Any]] = [{"row": int(index) + 1} for index in indices]
    for name in file.schema_arrow.names:
        for row, value in zip(rows, _column(file, name).take(positions).to_pylist(), strict=True):
            if value is not None:
                row[name] = _text(value)
    return Page(int(file.metadata.num_rows), len(matches), start, rows)


@functools.lru_cache(maxsize=16)
def _matches(path: Path, changed_ns: int, words: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Return the indices of the matching rows; cached until the file changes, so that paging does not search again."""
    file = _open(path)
    count = file.metadata.num_rows
    if not words:
        return np.arange(count)
    masks: list[Mask] = [np.zeros(count, dtype=bool) for _ in words]
    for field in file.schema_arrow:
        if _is_text(field.type) or (pa.types.is_list(field.type) and _is_text(field.type.value_type)):
            column = _column(file, field.name)
            for word, mask in zip(words, masks, strict=True):
                mask[_containing(column, word)] = True
    return np.flatnonzero(np.logical_and.reduce(masks))


def _containing(column: pa.ChunkedArray, word: str) -> np.ndarray[Any, Any]:
    """Return the indices of the values that contain a word; a list contains it if one of its items does."""
    if not pa.types.is_list(column.type):
        indices: np.ndarray[Any, Any] = np.from_dlpack(
            pc.indices_nonzero(pc.match_substring(column, word, ignore_case=True))
        )
        return indices
    lists = column.combine_chunks()
    parents = np.from_dlpack(pc.list_parent_indices(lists))
    items = _containing(pa.chunked_array([pc.list_flatten(lists)]), word)
    return np.take(parents, items)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise _damaged(path, error) from error


def _column(file: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    try:
        return file.read(columns=[name]).column(name)
    except pa.ArrowException as error:
        raise _damaged(Path(name), error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path.name} cannot be read as Parquet ({str(error).splitlines()[0]}).",
        fix="Delete it to have it computed again.",
    )


def _text(value: Any) -> Any:
    """Return a value as text, or a list of texts."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value.is_integer() else format_number(value)
    return str(value)
