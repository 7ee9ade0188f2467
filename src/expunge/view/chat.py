"""The chat: one prompt to several models of a run, whose answers are streamed as lines of JSON."""

from __future__ import annotations

import asyncio
import functools
import json
import queue
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from expunge.console import note
from expunge.errors import UserError, one_line
from expunge.records import ROLE_NAMES
from expunge.view.folder import RunFolder
from expunge.view.request import ChatRequest

if TYPE_CHECKING:
    # torch is imported when a model is used.
    from expunge.view.models import ChatModels

Events = queue.SimpleQueue[dict[str, Any] | None]


class Stopped(Exception):
    """Raised in a generation whose reader has left."""


class Chat:
    """Answers of the models of one run at a time, which stay loaded until another run is asked.

    Args:
        folder: The folder of runs.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._models: ChatModels | None = None

    def start(self, request: ChatRequest) -> AsyncIterator[bytes]:
        """Return the answers as lines of JSON, each an event with the role that it is about.

        An event has 'state', 'text' (the answer so far), 'log_probability' and 'probability_per_token' (of the true
        answer), 'error', or, in the last one of a model, 'done'. A model that fails does not stop the others.

        Raises:
            UserError: Another prompt is being answered, or the run has no models to ask.
        """
        if not self._lock.acquire(blocking=False):
            raise UserError("another prompt is being answered.", fix="Wait for its end, or stop it.")
        try:
            self._open(request.run)
        except BaseException:
            self._lock.release()
            raise
        events: Events = queue.SimpleQueue()
        stop = threading.Event()
        threading.Thread(target=self._answer, args=(request, events, stop), daemon=True).start()
        return _lines(events, stop)

    def _open(self, name: str) -> None:
        from expunge.view.models import ChatModels

        run = self._folder.run(name)
        self._folder.inside(run.folder / "checkpoint")
        if self._models is None or not self._models.is_of(run):
            self._models = None
            self._models = ChatModels(run)

    def _answer(self, request: ChatRequest, events: Events, stop: threading.Event) -> None:
        """Ask one model after another; runs in a thread of its own and releases the lock."""
        assert self._models is not None

        def send(role: str, event: dict[str, Any]) -> None:
            if stop.is_set():
                raise Stopped
            events.put({"role": role, **event})

        try:
            for role in dict.fromkeys(request.roles):
                try:
                    self._models.answer(role, request, functools.partial(send, role))
                except UserError as error:
                    send(role, {"error": str(error)})
                except Stopped:
                    raise
                except Exception as error:
                    # The other models may still answer; the terminal and the page both get the reason.
                    text = f"{type(error).__name__}: {one_line(error)}"
                    note(f"The {ROLE_NAMES[role]} could not answer. {text}")
                    send(role, {"error": text})
        except Stopped:
            pass
        finally:
            self._lock.release()
            events.put(None)


async def _lines(events: Events, stop: threading.Event) -> AsyncIterator[bytes]:
    """Yield events as lines of JSON until the last one, which is None; stop the answers if the reader leaves."""
    try:
        while (event := await asyncio.to_thread(events.get)) is not None:
            yield json.dumps(event).encode() + b"\n"
    finally:
        stop.set()
