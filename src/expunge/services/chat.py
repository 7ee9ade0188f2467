"""Client for chat services that implement OpenAI's protocol, with retries and a file of saved replies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from expunge.errors import UserError
from expunge.rundir import explain_disk_errors

T = TypeVar("T")

Messages = Sequence[Mapping[str, str]]
"""Conversation: mappings with 'role' (system, user or assistant) and 'content'."""

_MAX_WAIT_SECONDS = 120.0
"""Longest wait that a service may request; a longer one counts as a failure."""

_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
"""Client errors after which a retry may succeed: timeout, conflict, too early, too many requests."""


_MAX_REPLY_BYTES = 16 << 20
"""Largest reply that is read; the longest texts of models have about a megabyte."""

_UNREADABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)
"""Errors of parsing a reply that is not what the protocol defines."""


class ReplyError(Exception):
    """A failed attempt after which a retry may succeed."""

    def __init__(self, problem: str, wait_seconds: float = 0.0) -> None:
        self.wait_seconds = wait_seconds
        super().__init__(problem)


@dataclass(frozen=True)
class ChatReply:
    """Reply of a service and the token counts that it reports."""

    text: str
    prompt_tokens: int = 0
    """Tokens of the prompt; 0 if the service does not report them."""
    completion_tokens: int = 0
    """Tokens of the reply; 0 if the service does not report them."""


@dataclass(frozen=True)
class ChatService:
    """A model behind `<base_url>/chat/completions`.

    Args:
        base_url: Address of the service up to its version, such as http://localhost:8000/v1.
        model: Name of the model at the service.
        api_key_env: Environment variable with the key; None for a service without one.
        timeout_seconds: Maximum time for one reply, from connecting to its last byte.

    Raises:
        UserError: The environment variable is not set or holds no key, or the address is invalid or holds a password.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"'{self.base_url}' is not the address of a service.",
                fix="Include the scheme and the version, such as http://localhost:8000/v1.",
            )
        try:
            host = urllib.parse.urlsplit(self.base_url).netloc
        except ValueError as error:
            raise UserError(f"'{self.base_url}' is not the address of a service: {error}.") from error
        if "@" in host:
            # Recipes and records hold the address. The message does not repeat it.
            raise UserError(
                "the address of the service contains a user name or password.",
                fix="Remove it, and name the environment variable that holds the key in api_key_env.",
            )
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else ""
        if self.api_key_env and not key:
            raise UserError(
                f"the environment variable {self.api_key_env} is not set.",
                fix="Set it to the service's key, or remove api_key_env if the service needs no key.",
            )
        if not (key.isascii() and key.isprintable()):
            # http.client would refuse the header with a message that contains the key.
            raise UserError(
                f"the environment variable {self.api_key_env} holds line breaks or other characters that no key has.",
                fix="Set it to the key alone.",
            )

    @property
    def address(self) -> str:
        """Return the URL of requests."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    def ask(self, messages: Messages, *, temperature: float = 0.0, max_tokens: int | None = None) -> ChatReply:
        """Send a conversation and return the reply.

        Args:
            messages: The conversation so far.
            temperature: Sampling temperature; 0 for the most likely reply.
            max_tokens: Maximum length of the reply in tokens; None for the service's default.

        Raises:
            ReplyError: The attempt failed by a timeout, a rate limit, a server error or an unreadable reply.
            UserError: The service rejects the request, so that a retry cannot succeed.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "temperature": temperature}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers=headers)
        if self.api_key_env:
            # Unredirected, so that the key is not sent to the target of a redirect.
            request.add_unredirected_header("Authorization", f"Bearer {os.environ[self.api_key_env]}")
        try:
            with _request_within(request, self.timeout_seconds) as response:
                return _parse_response(json.loads(_read_bounded(response)))
        except urllib.error.HTTPError as error:
            with error:
                if error.code in _RETRYABLE_STATUS or error.code >= 500:
                    raise ReplyError(f"HTTP status {error.code}", _retry_after_seconds(error)) from error
                raise UserError(
                    f"{self.address} rejects the request: HTTP status {error.code} ({error.reason}).",
                    fix="Check the service's address, the model's name and the key.",
                ) from error
        except (OSError, http.client.HTTPException, *_UNREADABLE) as error:
            raise ReplyError(f"{type(error).__name__}: {error}") from error


def chat_service(
    base_url: str, model: str, *, api_key_env: str | None = None, timeout_seconds: float = 120.0
) -> Callable[[str], str]:
    """Return a function that sends a prompt to a service and returns the text of the reply.

    The arguments are those of `ChatService`.

    Raises:
        UserError: The environment variable is not set, or the address is invalid.
    """
    service = ChatService(base_url, model, api_key_env, timeout_seconds)
    return lambda prompt: service.ask([{"role": "user", "content": prompt}]).text


def with_retries(attempt: Callable[[], T], attempts: int, backoff_seconds: float) -> T:
    """Call `attempt` until it succeeds, with a wait that doubles after each failure.

    The wait is at least as long as the service requests.

    Args:
        attempt: Function to call; raises `ReplyError` if a retry may succeed.
        attempts: Maximum number of calls, at least 1.
        backoff_seconds: Wait after the first failure.

    Raises:
        ReplyError: The last attempt failed, or the service requests a wait of more than two minutes.
    """
    for number in range(1, attempts + 1):
        try:
            return attempt()
        except ReplyError as error:
            if number == attempts or error.wait_seconds > _MAX_WAIT_SECONDS:
                raise
            time.sleep(max(backoff_seconds * 2 ** (number - 1), error.wait_seconds))
    raise AssertionError("attempts must be at least 1")


class ReplyFile:
    """File of saved replies, one JSON object per line; each is written as soon as it is added.

    Several threads may add replies. Incomplete lines, which a killed process may leave, are skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one entry."""
        with self._lock, explain_disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                # The line break comes first, because the file may end in an incomplete line.
                stream.write("\n" + json.dumps(entry, ensure_ascii=False))


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Handler of requests that lists the sockets it opens."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._listed(http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._listed(http.client.HTTPSConnection), req)

    def _listed(self, kind: type[http.client.HTTPConnection]) -> Any:
        def connection(host: str, **settings: Any) -> http.client.HTTPConnection:
            opened = kind(host, **settings)
            connect = opened.connect

            def connect_and_list() -> None:
                connect()
                self._sockets.append(opened.sock)

            opened.connect = connect_and_list  # type: ignore[method-assign]
            return opened

        return connection


@contextlib.contextmanager
def _request_within(request: urllib.request.Request, seconds: float) -> Iterator[Any]:
    """Send a request and yield the response; the sockets are shut when the time is over.

    The timeout of a socket alone restarts with every byte, so a service that sends one byte at a time would never end.
    """
    sockets: list[socket.socket] = []
    is_over = threading.Event()

    def give_up() -> None:
        is_over.set()
        for opened in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(opened, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        with urllib.request.build_opener(_Handler(sockets)).open(request, timeout=seconds) as response:
            yield response
    except Exception as error:
        if is_over.is_set():
            raise TimeoutError(f"no complete reply within {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()


def _read_bounded(response: Any) -> bytes:
    body: bytes = response.read(_MAX_REPLY_BYTES + 1)
    if len(body) > _MAX_REPLY_BYTES:
        raise ValueError(f"the reply has more than {_MAX_REPLY_BYTES:,} bytes")
    return body


def _parse_response(response: Any) -> ChatReply:
    content = response["choices"][0]["message"]["content"]
    if content is not None:
        # Half of a surrogate pair cannot be written to a file.
        content = str(content).encode("utf-8", errors="replace").decode("utf-8")
    usage = response.get("usage") or {}
    # Services return null as content if the model refuses to answer.
    return ChatReply(
        "" if content is None else content,
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )


def _retry_after_seconds(error: urllib.error.HTTPError) -> float:
    """Return the wait that a service requests in seconds; HTTP-date values are ignored."""
    try:
        return max(0.0, float(error.headers.get("Retry-After") or 0))
    except ValueError:
        return 0.0
