"""The largest memory that a part of the work took: of the GPU where there is one, else of the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import resource
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Start a new measurement, without what was freed before.

    Where the system cannot forget the old peak, the next one counts from the process's start.
    """
    return_freed()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Linux sets the resident peak back to what is resident now when 5 is written there.
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def peak_bytes() -> int:
    """Largest memory since `reset_peak`, in bytes."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resident_peak()


def resident_peak() -> int:
    """Largest resident memory of this process, in bytes."""
    with contextlib.suppress(OSError, StopIteration):
        # getrusage's maximum comes from the parent in a new process, and cannot be set back.
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def return_freed() -> None:
    """Give memory that is free inside the process back to the system.

    glibc keeps it in pieces, of which many trainings in one process make more and more.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
