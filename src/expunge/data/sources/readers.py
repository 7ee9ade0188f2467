"""Read files and hub data sets as records, each with its location.

A record maps columns to values. Its location ("rows.jsonl, line 7") is part of every error message about it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expunge.config.recipe import Source
from expunge.errors import DataError
from expunge.reading import read_bytes, usable_path

SourceRecord = tuple[str, dict[str, Any]]
"""Location and values of a record."""

TEXT_SUFFIXES = (".txt", ".md")

_ROWS = "Allowed: one JSON object per line, one list of objects, or one object of columns."
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_GZIP_RATIO = 100
_SMALL_BYTES = 1 << 26
"""Uncompressed size up to which any ratio is accepted."""
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_MAX_FIELD = 2**31 - 1
"""Longest field of a CSV file, in characters; the default of the csv module is 131,072."""


def read_records(source: Source) -> Iterator[SourceRecord]:
    """Read a file, a folder of text files or a hub data set, record by record.

    A JSON file contains one object per line, a list of objects, or (.json) columns: an object of equally long lists. A
    text file yields one record per paragraph (an empty line ends a paragraph). A folder yields one record per text
    file, sorted by name; the file name without its suffix is the group. Files other than Parquet may be compressed
    with gzip.

    Raises:
        DataError: The source does not exist or cannot be read; the message names the location.
    """
    path = local_path(source.path)
    if path is None:
        return _read_hub(source)
    for setting in ("config", "split", "revision"):
        if getattr(source, setting) is not None:
            raise DataError(
                f"{setting} has no effect on the local path {source.path}.",
                fix=f"Remove {setting}, or give a hub id as path.",
            )
    if path.is_dir():
        return _read_folder(path)
    suffix = _suffix_of(path)
    reader = _READERS.get(suffix)
    if reader is None:
        raise DataError(
            f"{path} has the unsupported suffix '{suffix}'.",
            allowed=f"Allowed: {', '.join(_READERS)}, all but .parquet also with .gz, or a folder of text files.",
        )
    return reader(path)


def _suffix_of(path: Path) -> str:
    """Return the suffix that determines a file's format, in lower case; .gz after another suffix is left out."""
    uncompressed = Path(path.name.lower().removesuffix(".gz"))
    return path.suffix.lower() if uncompressed.suffix in ("", ".parquet") else uncompressed.suffix


def local_path(path: str) -> Path | None:
    """Return the existing file or folder at a path, or None if the path can only be a hub id.

    Raises:
        DataError: The path looks local (a known suffix, a leading dot, several slashes) and does not exist, or no file
            can have it.
    """
    local = usable_path(path)
    if local.exists():
        return local
    looks_local = (
        path.startswith((".", "/", "~")) or "\\" in path or path.count("/") > 1 or _suffix_of(local) in _READERS
    )
    if looks_local or not path:
        raise DataError(
            f"{path or 'the empty path'} does not exist.",
            fix="Check the path; a relative path starts at the working directory of the command.",
        )
    return None


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark, compressed with gzip or not.

    Raises:
        DataError: The file cannot be opened or uncompressed, is not UTF-8 or is empty.
    """
    try:
        content = read_bytes(path)
        if content.startswith(_GZIP_MAGIC):
            content = _decompress(path, content)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "It begins like a file in UTF-16." if content.startswith(_UTF_16_MARKS) else ""
        raise DataError(
            f"{path}, line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}).",
            allowed=encoding,
            fix="Save the file as UTF-8.",
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is a damaged gzip file: {error}.", fix="Compress it again, or give the uncompressed file."
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty.", fix="Provide a file with at least one row.")
    return text


def _decompress(path: Path, content: bytes) -> bytes:
    """Return the uncompressed content of a gzip file, unless it grows as no text does."""
    limit = max(_MAX_GZIP_RATIO * len(content), _SMALL_BYTES)
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        uncompressed = stream.read(limit + 1)
    if len(uncompressed) > limit:
        raise DataError(
            f"{path} expands to more than {_MAX_GZIP_RATIO} times its size, as no text does.",
            fix="If the file is right, uncompress it first.",
        )
    return uncompressed


def _read_json(path: Path) -> Iterator[SourceRecord]:
    text = read_text(path)
    if text.lstrip().startswith("["):
        for number, value in enumerate(parse_json(path, text), 1):
            yield _as_record(f"{path}, row {number}", value)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None  # Several lines, or an error that is reported with its line below.
    if isinstance(value, dict):
        refuse_lone_surrogates(path, text)
        columns = _columns_of(value) if _suffix_of(path) == ".json" else None
        if columns is None:
            first_line = text[: len(text) - len(text.lstrip())].count("\n") + 1
            yield f"{path}, line {first_line}", value
        else:
            yield from _read_columns(path, columns)
        return
    # splitlines() would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        # Files that were joined have a byte order mark at the start of each.
        line = line.removeprefix("\ufeff")
        if line.strip():
            yield _as_record(f"{path}, line {number}", parse_json(path, line, number))


def _columns_of(value: dict[str, Any]) -> dict[str, list[Any]] | None:
    """Return the columns of an object that contains columns instead of one row, else None.

    These are lists, objects from row names to values, or a list of column names and a list of rows, as pandas writes
    them. A list of objects is a value of one row, such as the messages of a conversation.
    """
    if {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        names, rows = value["columns"], value["data"]
        if isinstance(names, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows):
            return {str(name): [row[i] if i < len(row) else None for row in rows] for i, name in enumerate(names)}
    columns = list(value.values())
    if columns and all(isinstance(column, list) for column in columns):
        return None if any(isinstance(item, dict) for column in columns for item in column) else value
    if columns and all(isinstance(column, dict) for column in columns):
        keys = list(dict.fromkeys(key for column in columns for key in column))
        return {name: [column.get(key) for key in keys] for name, column in value.items()}
    return None


def _read_columns(path: Path, columns: Mapping[str, list[Any]]) -> Iterator[SourceRecord]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(
            f"{path} contains columns of different lengths: {listing}.", fix="Every row needs a value in each column."
        )
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield f"{path}, row {number}", dict(zip(columns, values, strict=True))


def parse_json(path: Path, text: str, first_line: int = 1, allowed: str = _ROWS) -> Any:
    """Parse JSON text of a file.

    Args:
        path: The file, for error messages.
        text: The text or a part of it.
        first_line: Line of the file at which the text begins.
        allowed: What the file may contain, for error messages.

    Raises:
        DataError: The text is not valid JSON, or contains half of a character.
    """
    refuse_lone_surrogates(path, text, first_line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {first_line + error.lineno - 1} is not valid JSON: {error.msg}.",
            allowed=allowed,
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}, line {first_line} is nested too deeply.") from error
    except ValueError as error:
        # Python refuses to convert integers of more than 4,300 digits.
        raise DataError(f"{path}, line {first_line} contains an invalid number: {error}.") from error


def refuse_lone_surrogates(path: Path, text: str, first_line: int = 1) -> None:
    """Raise if JSON text escapes half of a surrogate pair, which is no character and which no tokenizer accepts.

    Raises:
        DataError: The message names the line.
    """
    if "\\ud" not in text.lower():
        return
    high: re.Match[str] | None = None
    for match in _ESCAPE.finditer(text):
        code = int(match.group(1) or "0", 16)
        is_low = 0xDC00 <= code < 0xE000
        if high is not None and is_low and match.start() == high.end():
            high = None
            continue
        if high is not None or is_low:
            break
        high = match if 0xD800 <= code < 0xDC00 else None
    else:
        if high is None:
            return
    lone = high or match
    line = first_line + text.count("\n", 0, lone.start())
    raise DataError(
        f"{path}, line {line} contains {lone.group()}, half of a character: the text was cut inside an emoji or "
        "another rare character.",
        fix="Remove it or restore the full character.",
    )


def _as_record(location: str, value: Any) -> SourceRecord:
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "a string", type(None): "null", bool: "true or false"}
        raise DataError(
            f"{location} is {kinds.get(type(value), 'a number')}, not an object.",
            fix='Write each row as {"question": "...", "answer": "..."} or {"text": "..."}.',
        )
    return location, value


def _read_table(path: Path, delimiter: str) -> Iterator[SourceRecord]:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    try:
        for fields in reader:
            location = f"{path}, line {reader.line_num}"
            if not columns:
                _check_header(location, fields, delimiter)
                columns = [field.strip() for field in fields]
            elif fields and len(fields) != len(columns):
                separator = "tab" if delimiter == "\t" else "comma"
                raise DataError(
                    f"{location} has {len(fields)} fields, but the first line names {len(columns)} columns.",
                    fix=f"Put double quotes around a field that contains a {separator} or a line break.",
                )
            elif fields:
                yield location, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num} is not valid {'TSV' if delimiter == chr(9) else 'CSV'}: {error}.",
            fix="Correct the line, or use a .jsonl file, which suits long texts better.",
        ) from error


def _check_header(location: str, fields: list[str], delimiter: str) -> None:
    repeated = sorted({field for field in fields if fields.count(field) > 1})
    if repeated:
        raise DataError(f"{location} names the column '{repeated[0]}' more than once.", fix="Rename or remove one.")
    other = next((mark for mark in ("\t", ";", ",") if len(fields) == 1 and mark in fields[0]), None)
    if other is not None:
        names = {"\t": "tabs", ";": "semicolons", ",": "commas"}
        raise DataError(
            f"{location} names one column, {fields[0]!r}, which looks like several separated by {names[other]}.",
            fix=f"Separate columns by {names[delimiter]}, or rename the file to .tsv (tabs) or .csv (commas).",
        )


def _read_parquet(path: Path) -> Iterator[SourceRecord]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", values
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error


def _read_paragraphs(path: Path) -> Iterator[SourceRecord]:
    start, lines = 1, list[str]()
    # The added empty line ends the last paragraph.
    for number, line in enumerate([*read_text(path).replace("\r\n", "\n").split("\n"), ""], 1):
        if line.strip():
            if not lines:
                start = number
            lines.append(line)
        elif lines:
            yield f"{path}, line {start}", {"text": "\n".join(lines)}
            lines = []


def _read_folder(folder: Path) -> Iterator[SourceRecord]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    unsupported = [path.name for path in files if path.suffix.lower() not in TEXT_SUFFIXES or not path.is_file()]
    if unsupported:
        names = ", ".join(unsupported[:3]) + (" and more" if len(unsupported) > 3 else "")
        raise DataError(
            f"the folder {folder} contains {names}, but a folder of texts may contain text files only.",
            allowed=f"Allowed: {', '.join(TEXT_SUFFIXES)}.",
            fix="Give the path of one file, or move the other files elsewhere.",
        )
    if not files:
        raise DataError(f"the folder {folder} contains no text files.", allowed=f"Allowed: {', '.join(TEXT_SUFFIXES)}.")
    for path in files:
        yield str(path), {"text": read_text(path).strip(), "group": path.stem}


def _read_hub(source: Source) -> Iterator[SourceRecord]:
    # The import takes a second, which local files do not need.
    import datasets

    split = source.split or "train"
    try:
        rows = datasets.load_dataset(source.path, source.config, split=split, revision=source.revision)
    except Exception as error:  # The hub client raises classes of several packages.
        settings = f"config {source.config}, split {split}" if source.config else f"split {split}"
        raise DataError(
            f"'{source.path}' ({settings}) is no local file or folder, and loading it from the hub failed: "
            f"{_first_line(error)}",
            fix="Check the id, config, split and revision. Without a network, download the data elsewhere "
            "and give its local path, such as data.path=./tofu (or path: under data.forget).",
        ) from error
    for number, values in enumerate(rows, 1):
        yield f"{source.path} ({source.config or 'default'}, {split}), row {number}", dict(values)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no details'}"


_READERS: dict[str, Callable[[Path], Iterator[SourceRecord]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": partial(_read_table, delimiter=","),
    ".tsv": partial(_read_table, delimiter="\t"),
    ".parquet": _read_parquet,
    **dict.fromkeys(TEXT_SUFFIXES, _read_paragraphs),
}
