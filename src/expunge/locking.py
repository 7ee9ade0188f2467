"""Locks, so that no two processes write to the same run, sweep or shared model at once."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from expunge.console import interrupt_requested, is_main_process, note
from expunge.distributed import run_on_main
from expunge.errors import Interrupted, UserError
from expunge.rundir import explain_disk_errors, write_atomic

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock while this process writes to a folder.

    The operating system releases the lock when the process ends, however it ends, so a killed process blocks nothing.
    With several processes of one command, rank 0 holds it for all.

    Args:
        path: The lock file. It stays; the file next to it that names the owner is deleted with the lock.
        what: What the lock protects, such as 'the run folder runs/mine', for messages.
        wait: Wait until another process has released the lock, instead of raising.

    Raises:
        UserError: Another process holds the lock; the message names it.
        Interrupted: A stop was requested while waiting.
    """
    lock = FileLock(path)
    owner = path.with_name(f"{path.name}-owner")

    def take() -> None:
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _acquire(lock, owner, what, wait)
        write_atomic(owner, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))

    run_on_main(take)
    try:
        yield
    finally:
        if is_main_process():
            owner.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: FileLock, owner: Path, what: str, wait: bool) -> None:
    is_told = False
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = _describe(owner)
            if not wait:
                raise UserError(
                    f"{what} is in use by {holder}.",
                    fix="Wait until it has ended, or stop it; then repeat the command.",
                ) from None
            if not is_told:
                note(f"Waiting until {holder} has finished with {what}.")
                is_told = True
            if interrupt_requested():
                raise Interrupted from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _describe(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        # The other process has just taken the lock, or is about to release it.
        return "another process"
