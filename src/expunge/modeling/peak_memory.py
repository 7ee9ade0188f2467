"""Peak memory of a piece of work: of the GPU if there is one, otherwise of the process."""

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
    """Free cached memory and start a new measurement of the peak.

    On systems without `/proc/self/clear_refs` the peak of the process since its start remains.
    """
    release_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # On Linux, writing 5 resets the peak resident size to the current one (man 5 proc).
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def peak_bytes() -> int:
    """Return the peak memory since `reset_peak`, in bytes."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resident_peak()


def resident_peak() -> int:
    """Return the peak resident memory of this process, in bytes."""
    with contextlib.suppress(OSError, StopIteration):
        # Preferred to getrusage, whose maximum is inherited from the parent process and cannot be reset.
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def release_freed_memory() -> None:
    """Return freed memory to the operating system and the GPU driver.

    glibc holds freed blocks for reuse; over many trainings in one process their fragmentation grows.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # Only glibc has malloc_trim.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
