"""What a user is told when something goes wrong, and the exit code."""

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
}


@dataclass(frozen=True)
class Failure:
    """A message and an exit code."""

    code: int
    title: str
    text: str


def explain(error: BaseException) -> Failure:
    """Turn any exception into a message; the caller prints the traceback where it was asked for."""
    if isinstance(error, UserError):
        return Failure(2, "Error:", str(error))
    if isinstance(error, Interrupted):
        place = str(error) or "on disk"
        return Failure(130, "", f"Stopped. Everything finished so far is {place}; repeat the same command to continue.")
    if isinstance(error, KeyboardInterrupt):
        return Failure(130, "", "Stopped at once.")
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return Failure(2, "Error:", _environment(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failure(2, "Error:", _memory(error))
    return Failure(
        1,
        "Error:",
        f"{type(error).__name__}: {error}\n"
        "This is a bug of expunge, not of your input. Repeat the command with --debug for the traceback, "
        "and report it with that.",
    )


def _environment(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    what = os.strerror(error.errno or 0).lower()
    return f"cannot use{where}: {what}. Free some space or choose another place, then repeat the command."


def _memory(error: BaseException) -> str:
    first = str(error).split("\n", 1)[0][:200] or "the machine has no more"
    return (
        f"out of memory ({first}). Lower train.device_batch_size (the effective batch stays), or set "
        "model.gradient_checkpointing=true or model.lora.rank=8. "
        "`expunge run RECIPE --dry-run` shows an estimate."
    )
