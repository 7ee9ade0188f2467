"""The run folder: atomic writes, finished-stage markers and safe paths."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from expunge.errors import DataError, UserError
from expunge.records import SCHEMA_VERSION, Record, Stage

R = TypeVar("R", bound=Record)

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable place into an error that says so."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number in _DISK:
            raise UserError(
                f"cannot write {path}: {_DISK[number]}.",
                fix="Free some space or choose another place with --runs, then repeat the command; "
                "finished stages are kept.",
            ) from error
        raise


def _error_number(error: Exception) -> int | None:
    """The system's number of what went wrong; libraries that write weights tell it in words of their own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if "inline_container.cc" in str(error):  # torch, part-way through a file
        return errno.ENOSPC
    told = re.search(r"os error (\d+)", str(error))
    return int(told.group(1)) if told else None


def fingerprint(value: Any) -> str:
    """Stable 12-digit name of any JSON-able value; equal content gives equal names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def write_record(path: Path, record: Record) -> None:
    """Write a record as indented JSON, atomically."""
    write_atomic(path, record.model_dump_json(indent=1) + "\n")


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record from a JSON file.

    Raises:
        DataError: The file is missing, damaged, or was written by a version of expunge with another record format.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise DataError(
                f"{path} was written by another version of expunge (record format {version}, this version reads "
                f"{SCHEMA_VERSION}).",
                fix="Use the version that wrote it, or run the recipe again into a new folder.",
            )
        return kind.model_validate(data)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"{path} is not a {kind.__name__} record of this version of expunge ({first}).",
            fix="Delete it to have it computed again.",
        ) from error


class RunDir:
    """A folder that holds one run and can be continued at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        """Path of a file inside the folder; leaving the folder is refused."""
        inside = (self.path / name).resolve()
        if not inside.is_relative_to(self.path.resolve()):
            raise ValueError(f"{name!r} leads out of the run folder {self.path}")
        return self.path / name

    def create(self) -> None:
        """Make the folder, saying plainly where that is impossible."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".write-test"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)

    def finished(self, stage: str, fingerprint: str) -> Stage | None:
        """The record of a stage that already ran with the same inputs, else None."""
        path = self / f"stages/{stage}.json"
        if not path.is_file():
            return None
        record = read_record(path, Stage)
        return record if record.fingerprint == fingerprint else None

    def finish(self, stage: Stage) -> None:
        """Mark a stage as complete; written last, after everything that the stage made."""
        write_record(self / f"stages/{stage.name}.json", stage)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def replace_folder(new: Path, place: Path) -> None:
    """Put a finished folder in its place in one step; an old one there is taken away first."""
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            shutil.rmtree(place)
        new.replace(place)
