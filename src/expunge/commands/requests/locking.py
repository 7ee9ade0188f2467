"""One process at a time: locks that name the process that holds them and end with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from expunge.errors import UserError
from expunge.rundir import explain_disk_errors

_POLL_SECONDS = 0.02


@contextlib.contextmanager
def exclusive(path: Path, work: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock file while the block runs; the file has the id of the process that holds it.

    The operating system frees the lock when its process ends, however that happens, so the file of a dead process is
    taken over.

    Args:
        path: The lock file.
        work: Work that the lock protects, for the message.
        wait_seconds: How long to wait for another process.

    Raises:
        UserError: Another process holds the lock.
    """
    with explain_disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(handle, path, work, wait_seconds)
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.truncate(handle, 0)
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, work: str, wait_seconds: float) -> None:
    import fcntl

    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
                raise UserError(
                    f"process {holder or 'unknown'} is {work}: {path} is locked.",
                    fix="Wait until it has finished, or stop it, then repeat the command.",
                ) from error
            time.sleep(_POLL_SECONDS)
