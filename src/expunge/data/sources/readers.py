"""Read files and hub data sets as records, each with its location.

A record maps columns to values. Its location ("rows.jsonl, line 7") is part of every error message about it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from expunge.config.recipe import Source
from expunge.errors import DataError

SourceRecord = tuple[str, dict[str, Any]]
"""Location and values of a record."""

TEXT_SUFFIXES = (".txt", ".md")


def read_records(source: Source) -> Iterator[SourceRecord]:
    """Read a file, a folder of text files or a hub data set, record by record.

    A text file yields one record per paragraph (an empty line ends a paragraph). A folder yields one record per text
    file, sorted by name; the file name without its suffix is the group.

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
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} has the unsupported suffix '{path.suffix}'.",
            allowed=f"Allowed: {', '.join(_READERS)}, or a folder of text files.",
        )
    return reader(path)


def local_path(path: str) -> Path | None:
    """Return the existing file or folder at a path, or None if the path can only be a hub id.

    Raises:
        DataError: The path looks local (a known suffix, a leading dot, several slashes) and does not exist.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local
    looks_local = (
        path.startswith((".", "/", "~")) or "\\" in path or path.count("/") > 1 or local.suffix.lower() in _READERS
    )
    if looks_local or not path:
        raise DataError(
            f"{path or 'the empty path'} does not exist.",
            fix="Check the path; a relative path starts at the working directory of the command.",
        )
    return None


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: The file cannot be opened, is not UTF-8 or is empty.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}).",
            fix="Save the file as UTF-8.",
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise DataError(f"{path} is empty.", fix="Provide a file with at least one row.")
    return text


def _read_json(path: Path) -> Iterator[SourceRecord]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        # splitlines() would also cut at U+2028, which JSON allows inside a string.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _as_record(f"{path}, line {number}", _parse_json(path, line, number))
        return
    for number, value in enumerate(_parse_json(path, text, 1), 1):
        yield _as_record(f"{path}, row {number}", value)


def _parse_json(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {first_line + error.lineno - 1} is not valid JSON: {error.msg}.",
            allowed="Allowed: one JSON object per line, or one list of objects.",
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}, line {first_line} is nested too deeply for a row.") from error


def _as_record(location: str, value: Any) -> SourceRecord:
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "a string", type(None): "null", bool: "true or false"}
        raise DataError(
            f"{location} is {kinds.get(type(value), 'a number')}, not an object.",
            fix='Write each row as {"question": "...", "answer": "..."} or {"text": "..."}.',
        )
    return location, value


def _read_csv(path: Path) -> Iterator[SourceRecord]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns: list[str] = []
    try:
        for fields in reader:
            location = f"{path}, line {reader.line_num}"
            if not columns:
                repeated = sorted({field for field in fields if fields.count(field) > 1})
                if repeated:
                    raise DataError(
                        f"{location} names the column '{repeated[0]}' more than once.", fix="Rename or remove one."
                    )
                columns = [field.strip() for field in fields]
            elif fields and len(fields) != len(columns):
                raise DataError(
                    f"{location} has {len(fields)} fields, but the first line names {len(columns)} columns.",
                    fix="Put double quotes around a field that contains a comma or a line break.",
                )
            elif fields:
                yield location, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num} is not valid CSV: {error}.",
            fix="Correct the line, or use a .jsonl file, which suits long texts better.",
        ) from error


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
    except (pyarrow.ArrowException, OSError) as error:
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
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    **dict.fromkeys(TEXT_SUFFIXES, _read_paragraphs),
}
