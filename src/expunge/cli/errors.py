"""Messages and exit codes of exceptions."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from expunge.errors import Interrupted, UserError

_ENVIRONMENT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EMFILE,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EISDIR,
}
"""Errors of the operating system that a user can correct."""


@dataclass(frozen=True)
class Failure:
    """A message and an exit code."""

    code: int
    title: str
    text: str


def explain(error: BaseException) -> Failure:
    """Return the message and exit code of an exception; the caller prints the traceback if requested."""
    if isinstance(error, UserError):
        return Failure(2, "Error:", str(error))
    if isinstance(error, Interrupted):
        where = str(error) or "on disk"
        return Failure(130, "", f"Stopped. Everything finished so far is {where}; repeat the same command to continue.")
    if isinstance(error, KeyboardInterrupt):
        return Failure(130, "", "Stopped immediately.")
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return Failure(2, "Error:", _environment(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failure(2, "Error:", _memory(error))
    return Failure(
        1,
        "Error:",
        f"{type(error).__name__}: {error}\n"
        "This is a bug in expunge or in a user-defined Python file. Repeat the command with --debug for the "
        "traceback, and include it in a bug report.",
    )


def _environment(error: OSError) -> str:
    path = f" {error.filename}" if error.filename else ""
    reason = os.strerror(error.errno or 0).lower()
    return f"cannot use{path}: {reason}. Free some space or choose another path, then repeat the command."


def _memory(error: BaseException) -> str:
    detail = str(error).split("\n", 1)[0][:200] or "no more is available"
    return (
        f"out of memory ({detail}). Lower train.device_batch_size (the effective batch does not change), or set "
        "model.gradient_checkpointing=true or model.lora.rank=8. "
        "`expunge run RECIPE --dry-run` prints an estimate."
    )
