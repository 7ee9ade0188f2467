"""Progress bars and notes on standard error, and graceful handling of Ctrl-C.

A terminal shows progress bars; other outputs, such as log files, get plain lines at intervals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from expunge.errors import Interrupted, printable

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Console on standard error, for progress and notes; results go to standard output."""

_LINE_SECONDS = 15.0
_interrupted = threading.Event()


def is_main_process() -> bool:
    """Return whether this process has rank 0: the only one that prints and writes shared files."""
    return os.environ.get("RANK", "0") == "0"


def note(text: str) -> None:
    """Print one line to standard error, on the main process only."""
    if is_main_process():
        console.print(printable(text), markup=False)


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show the progress of a long task; yields a function to call with each amount of finished work.

    That function raises `Interrupted` if Ctrl-C was pressed inside `interruptible`.
    """
    if not is_main_process():
        yield _raise_if_interrupted
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)

            def advance(amount: int) -> None:
                bar.advance(task, amount)
                _raise_if_interrupted(amount)

            yield advance
    else:
        yield _line_progress(title, total, unit)


def _line_progress(title: str, total: int, unit: str) -> Callable[[int], None]:
    done, started = 0, time.monotonic()
    last_printed = started

    def advance(amount: int) -> None:
        nonlocal done, last_printed
        done += amount
        now = time.monotonic()
        if now - last_printed >= _LINE_SECONDS:
            last_printed = now
            note(f"{title}: {done}/{total} {unit} after {now - started:.0f} s".replace("  ", " "))
        _raise_if_interrupted(amount)

    return advance


def _raise_if_interrupted(amount: int = 0) -> None:
    if _interrupted.is_set():
        raise Interrupted


def interrupt_requested() -> bool:
    """Return whether the user has requested a stop, which takes effect at the next safe point."""
    return _interrupted.is_set()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a stop at the next safe point; a second one stops immediately."""
    if threading.current_thread() is not threading.main_thread():
        # Python allows only the main thread to install signal handlers.
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        _interrupted.set()
        note("Stopping at the next safe point; press Ctrl-C again to stop immediately.")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _interrupted.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


def print_result(text: str) -> None:
    """Write a result to standard output, followed by a newline."""
    sys.stdout.write(printable(text) + "\n")
