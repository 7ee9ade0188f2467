"""Run folders: atomic writes, markers of finished stages, and paths that stay inside the folder."""

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
from expunge.reading import read_json
from expunge.records import SCHEMA_VERSION, Record, Stage

R = TypeVar("R", bound=Record)

LOCK = ".lock"
"""Name of the lock file in the folder of a run, sweep or shared model."""

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a component of the path is a file, not a folder",
}


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, missing permissions and similar errors while writing `path` into a `UserError`."""
    try:
        yield
    except Exception as error:
        number = _errno_of(error)
        if number in _DISK_ERRORS:
            raise UserError(
                f"cannot write {path}: {_DISK_ERRORS[number]}.",
                fix="Free some space or choose another folder with --runs, then repeat the command; "
                "finished stages are not repeated.",
            ) from error
        raise


def _errno_of(error: Exception) -> int | None:
    """Return the errno behind an exception, also where a library reports it only in its message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # torch.save fails an internal check, without an errno, if the disk fills up while it writes.
    if "inline_container.cc" in str(error):
        return errno.ENOSPC
    # safetensors is written in Rust, whose I/O errors end in "(os error N)".
    match = re.search(r"os error (\d+)", str(error))
    return int(match.group(1)) if match else None


def fingerprint(value: Any) -> str:
    """Return 12 hexadecimal digits that identify a JSON-serialisable value; equal values give equal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see either the old content or the complete new content."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp creates files that only their owner can read.
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
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise DataError(
            f"{path} was written by another version of expunge (record format {version}, this version reads "
            f"{SCHEMA_VERSION}).",
            fix="Use the version that wrote it, or run the recipe again into a new folder.",
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is not a {kind.__name__} record of this version of expunge "
            f"({f'{where}: ' if where else ''}{first['msg']}).",
            fix="Delete it to recompute it.",
        ) from error


class RunDir:
    """The folder of one run, from which an interrupted run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file inside the folder.

        Raises:
            ValueError: The path is outside the folder.
        """
        target = (self.path / name).resolve()
        if not target.is_relative_to(self.path.resolve()):
            raise ValueError(f"{name!r} leads out of the run folder {self.path}")
        return self.path / name

    def create(self) -> None:
        """Create the folder and check that files can be written to it.

        Raises:
            UserError: The folder cannot be created or is not writable.
        """
        with explain_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".write-test"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)

    def finished(self, stage: str, fingerprint: str) -> Stage | None:
        """Return the record of a stage that finished with the same inputs, or None."""
        path = self / f"stages/{stage}.json"
        if not path.is_file():
            return None
        record = read_record(path, Stage)
        return record if record.fingerprint == fingerprint else None

    def finish(self, stage: Stage) -> None:
        """Mark a stage as finished; call this after all outputs of the stage are written."""
        write_record(self / f"stages/{stage.name}.json", stage)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def replace_folder(new: Path, folder: Path) -> None:
    """Move the complete folder `new` to `folder`, deleting a previous one."""
    with explain_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        new.replace(folder)
