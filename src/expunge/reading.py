"""Read files that others may have written: only regular files, with a limit on their size, and with clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from expunge.errors import DataError, one_line


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Return the content of a file.

    Args:
        path: The file. Pipes, sockets and devices are refused, because reading them may never end.
        max_bytes: Largest size that is accepted; None for no limit.

    Raises:
        DataError: The file does not exist, is no regular file, is too large or cannot be read.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a file.", fix="Give the path of a file.")
        if not path.is_file():
            what = "is a pipe or device, not a file" if path.exists() else "does not exist"
            raise DataError(f"{path} {what}.", fix="Check the path.")
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise DataError(f"{path} has {size:,} bytes.", allowed=f"The largest size allowed is {max_bytes:,} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.", fix="Check the path and its permissions."
        ) from error


def read_json(path: Path, max_bytes: int | None = None) -> Any:
    """Return the value in a JSON file.

    Raises:
        DataError: The file cannot be read, is not UTF-8 text, not valid JSON, or nested too deeply.
    """
    content = read_bytes(path, max_bytes)
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte 0x{content[error.start]:02x} at {error.start}).") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not complete JSON: {error.msg} in line {error.lineno}.",
            fix="It may be truncated; copy or download it again.",
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply.") from error
    except ValueError as error:
        # Python refuses to convert integers of more than 4,300 digits.
        raise DataError(f"{path} contains an invalid number: {one_line(error)}.") from error


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file.

    Raises:
        DataError: It is missing or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file.", fix="Keep all files of a run together.")
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({one_line(error)}).", fix="Delete it to have it computed again."
        ) from error
    return rows


def usable_path(name: str) -> Path:
    """Return a text as a path, with ~ filled in; it need not exist.

    Raises:
        DataError: No file can have this path: it is too long, contains NUL, names an unknown user or links to itself.
    """
    try:
        path = Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        shown = name if len(name) <= 200 else f"{name[:200]}..."
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"the path {shown} cannot be used: {reason}.", fix="Check the path.") from error
    return path
