"""Files and hub data sets as plain records, each with the place that it came from.

A record is a mapping from column to value. The place ("rows.jsonl, line 7") goes into every error message.
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

Record = tuple[str, dict[str, Any]]
"""Where it stands, and what it holds."""

TEXT_SUFFIXES = (".txt", ".md")


def read_records(source: Source) -> Iterator[Record]:
    """Read a file, a folder of text files or a hub data set, record by record.

    A single text file gives one record per paragraph (an empty line ends a paragraph); a folder gives one
    record per text file, in the order of their names, with its name (less the ending) as group.

    Raises:
        DataError: Nothing can be read there; the message says where it went wrong and what to do.
    """
    path = local_path(source.path)
    if path is None:
        return _read_hub(source)
    for setting in ("config", "split", "revision"):
        if getattr(source, setting) is not None:
            raise DataError(
                f"{setting} has no effect on {source.path}, which is on this machine.",
                fix=f"Remove {setting}, or give a hub id as path.",
            )
    if path.is_dir():
        return _read_folder(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} has the ending '{path.suffix}', which cannot be read.",
            allowed=f"Allowed: {', '.join(_READERS)}, or a folder of text files.",
        )
    return reader(path)


def local_path(path: str) -> Path | None:
    """The file or folder behind a path, or None where it can only be a hub id.

    Raises:
        DataError: It looks like a local path (an ending, a leading dot, several slashes) and does not exist.
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
            fix="Check the path; a relative one starts at the folder in which the command runs.",
        )
    return None


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without a byte order mark.

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
        raise DataError(f"{path} is empty.", fix="Give a file with at least one row.")
    return text


def _read_json(path: Path) -> Iterator[Record]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        # splitlines() would also cut at U+2028, which JSON allows inside a string.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _mapping(f"{path}, line {number}", _parse(path, line, number))
        return
    for number, value in enumerate(_parse(path, text, 1), 1):
        yield _mapping(f"{path}, row {number}", value)


def _parse(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {first_line + error.lineno - 1} is not valid JSON: {error.msg}.",
            allowed="Allowed: one JSON object per line, or one list of objects.",
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}, line {first_line} is not a row: it is nested too deeply.") from error


def _mapping(where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise DataError(
            f"{where} is {_kind(value)}, not an object.",
            fix='Write each row as {"question": "...", "answer": "..."} or {"text": "..."}.',
        )
    return where, value


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _read_csv(path: Path) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns: list[str] = []
    try:
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if not columns:
                columns = _header(where, fields)
            elif fields and len(fields) != len(columns):
                raise DataError(
                    f"{where} has {len(fields)} fields, but the first line names {len(columns)} columns.",
                    fix="Put double quotes around a field that holds a comma or a line break.",
                )
            elif fields:
                yield where, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num} is not valid CSV: {error}.",
            fix="Long texts fit better into a .jsonl file.",
        ) from error


def _header(where: str, fields: list[str]) -> list[str]:
    repeated = sorted({field for field in fields if fields.count(field) > 1})
    if repeated:
        raise DataError(f"{where} names the column '{repeated[0]}' more than once.")
    return [field.strip() for field in fields]


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", value
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error


def _read_paragraphs(path: Path) -> Iterator[Record]:
    start, lines = 1, list[str]()
    for number, line in enumerate([*read_text(path).replace("\r\n", "\n").split("\n"), ""], 1):
        if line.strip():
            if not lines:
                start = number
            lines.append(line)
        elif lines:
            yield f"{path}, line {start}", {"text": "\n".join(lines)}
            lines = []


def _read_folder(folder: Path) -> Iterator[Record]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    strange = [path.name for path in files if path.suffix.lower() not in TEXT_SUFFIXES or not path.is_file()]
    if strange:
        raise DataError(
            f"the folder {folder} holds {', '.join(strange[:3])}{' and more' if len(strange) > 3 else ''}, "
            "but a folder of texts holds text files only.",
            allowed=f"Allowed: {', '.join(TEXT_SUFFIXES)}.",
            fix="Give the path of one file, or move the others away.",
        )
    if not files:
        raise DataError(f"the folder {folder} holds no text files.", allowed=f"Allowed: {', '.join(TEXT_SUFFIXES)}.")
    for path in files:
        yield str(path), {"text": read_text(path).strip(), "group": path.stem}


def _read_hub(source: Source) -> Iterator[Record]:
    # Takes a second to import and local files do without it.
    import datasets

    split = source.split or "train"
    try:
        loaded = datasets.load_dataset(source.path, source.config, split=split, revision=source.revision)
    except Exception as error:  # the hub client raises classes of several packages, and all of them end here
        part = f" (config {source.config}, split {split})" if source.config else f" (split {split})"
        raise DataError(
            f"'{source.path}'{part} is no file or folder here, and loading it from the hub failed: "
            f"{_first_line(error)}",
            fix="Check the id, config, split and revision. Without a network, download the data elsewhere "
            "and give its local path, such as data.path=./tofu (or path: under data.forget).",
        ) from error
    for number, value in enumerate(loaded, 1):
        yield f"{source.path} ({source.config or 'default'}, {split}), row {number}", dict(value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no details'}"


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    **dict.fromkeys(TEXT_SUFFIXES, _read_paragraphs),
}
