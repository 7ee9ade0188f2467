"""Progress that a person can read: a bar in a terminal, plain lines elsewhere; and a polite Ctrl-C."""

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

from expunge.errors import Interrupted

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and notes go to standard error; results go to standard output."""

_LINE_SECONDS = 15.0
_interrupted = threading.Event()


def is_main_process() -> bool:
    """Whether this process is the one that talks and writes."""
    return os.environ.get("RANK", "0") == "0"


def note(text: str) -> None:
    """Say one line."""
    if is_main_process():
        console.print(text, markup=False)


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show how far a long piece of work has come; yields a function to call with each amount done.

    The function raises `Interrupted` once the user has pressed Ctrl-C inside `interruptible`.
    """
    if not is_main_process():
        yield _check
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)

            def advance(amount: int) -> None:
                bar.advance(task, amount)
                _check(amount)

            yield advance
    else:
        yield _line_progress(title, total, unit)


def _line_progress(title: str, total: int, unit: str) -> Callable[[int], None]:
    done, started = 0, time.monotonic()
    spoken = started

    def advance(amount: int) -> None:
        nonlocal done, spoken
        done += amount
        now = time.monotonic()
        if now - spoken >= _LINE_SECONDS:
            spoken = now
            note(f"{title}: {done}/{total} {unit} after {now - started:.0f} s".replace("  ", " "))
        _check(amount)

    return advance


def _check(amount: int = 0) -> None:
    if _interrupted.is_set():
        raise Interrupted


def interrupt_requested() -> bool:
    """Whether the user has asked to stop; work ends at the next safe point."""
    return _interrupted.is_set()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first Ctrl-C (or a polite kill) into a stop at the next safe point; the second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        _interrupted.set()
        note("Stopping at the next safe point; press Ctrl-C again to stop at once.")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _interrupted.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


def print_result(text: str) -> None:
    """Write a result to standard output, for people and pipes."""
    sys.stdout.write(text + "\n")
