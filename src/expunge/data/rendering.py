"""Render chat templates of models that others made, with limits on time and memory.

transformers renders them in Jinja's immutable sandbox, which keeps them from files and from Python's internals, but not
from looping without end or from building texts without end.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes

from expunge.errors import IncompatibleError, one_line

MAX_SECONDS = 2.0
"""Most CPU time for one conversation; usual templates need a millisecond."""

MAX_BYTES = 512 << 20
"""Largest amount of memory that rendering one conversation may add to the process."""

_STATM = Path("/proc/self/statm")
_POLL_SECONDS = 0.2
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


class _TooSlow(Exception):
    """Raised inside a template that exceeds its time."""


def render(tokenizer: Any, messages: list[dict[str, str]], **settings: Any) -> str:
    """Return a conversation in the format of a chat template.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The conversation.
        settings: Other arguments of `apply_chat_template`, and variables of the template.

    Raises:
        TemplateError: The template is malformed, rejects the messages or reads what the sandbox forbids.
        IncompatibleError: The template needs too much time or memory.
        TypeError, ValueError, LookupError, ArithmeticError, AttributeError: An operation of the template fails.
    """
    _refuse_powers(settings.get("chat_template") or template_source(tokenizer))
    try:
        # The watchdog ends first: what it raises must not interrupt lifting the memory limit.
        with _MEMORY.limit(), _WATCHDOG.watch():
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **settings))
    except _TooSlow as error:
        raise _too_expensive(f"takes more than {MAX_SECONDS:g} seconds") from error
    except MemoryError as error:
        raise _too_expensive(f"needs more than {MAX_BYTES >> 20} MB of memory") from error
    except RecursionError as error:
        raise _too_expensive("calls itself without end") from error


def reason(error: Exception) -> str:
    """Return why a template failed, for a message."""
    text = one_line(error).removesuffix(".")
    return text if isinstance(error, TemplateError) and text else f"{type(error).__name__}: {text}"


FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
"""Exceptions that `render` raises if a template is malformed or rejects a conversation."""


def _too_expensive(problem: str) -> IncompatibleError:
    return IncompatibleError(
        f"the tokenizer's chat template {problem} for one conversation.",
        fix="Check the template (chat_template.jinja or tokenizer_config.json), or set prompt.style=plain.",
    )


def template_source(tokenizer: Any) -> str:
    """Return the source of a tokenizer's chat template, of all of them if it has several, or ""."""
    template = tokenizer.chat_template or ""
    return template if isinstance(template, str) else "\n".join(map(str, template.values()))


@functools.lru_cache
def _refuse_powers(source: str) -> None:
    """Raise if a template computes powers: one operation that Python cannot interrupt, and that no template needs."""
    if "**" not in source:
        return
    try:
        # transformers' own tag around answers is left out.
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION_TAG.sub("", source))
    except (TemplateSyntaxError, RecursionError):
        return  # Rendering reports it.
    if parsed.find(nodes.Pow) is not None:
        raise _too_expensive("computes powers (**), which may take any time")


def _seconds_of(thread: int) -> float:
    """Return the CPU time of a thread; where the system does not report it, the time on the clock."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


class _Watchdog:
    """A thread that raises `_TooSlow` in threads whose template exceeds its time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[int, float] = {}
        self._is_running = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Raise `_TooSlow` in the calling thread if the block takes too long."""
        thread = threading.get_ident()
        with self._lock:
            self._deadlines[thread] = _seconds_of(thread) + MAX_SECONDS
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, daemon=True, name="chat-template-limit").start()
        try:
            yield
        finally:
            with self._lock:
                if self._deadlines.pop(thread, None) is None:
                    # It was interrupted; an exception that is still on its way must not reach other code.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)

    def _run(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            with self._lock:
                if not self._deadlines:
                    self._is_running = False
                    return
                for thread in [thread for thread, end in self._deadlines.items() if _seconds_of(thread) > end]:
                    del self._deadlines[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooSlow))


class _MemoryLimit:
    """A limit on the address space of the process, while at least one thread renders; on Linux only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_threads = 0
        self._limits = (0, 0)

    @contextlib.contextmanager
    def limit(self) -> Iterator[None]:
        """Let the block add at most MAX_BYTES; beyond that, memory cannot be allocated."""
        if not _STATM.exists():
            yield
            return
        import resource

        with self._lock:
            if not self._num_threads:
                self._limits = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
                limit = int(_STATM.read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
                resource.setrlimit(resource.RLIMIT_AS, (limit if soft < 0 else min(limit, soft), hard))
            self._num_threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_threads -= 1
                if not self._num_threads:
                    resource.setrlimit(resource.RLIMIT_AS, self._limits)


_WATCHDOG = _Watchdog()
_MEMORY = _MemoryLimit()
