"""Client for chat services that implement OpenAI's protocol, with retries and a file of saved replies."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
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
        timeout_seconds: Maximum wait for one reply.

    Raises:
        UserError: The environment variable is not set, or the address is invalid.
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
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise UserError(
                f"the environment variable {self.api_key_env} is not set.",
                fix="Set it to the service's key, or remove api_key_env if the service needs no key.",
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
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                return _parse_response(json.loads(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                if error.code in _RETRYABLE_STATUS or error.code >= 500:
                    raise ReplyError(f"HTTP status {error.code}", _retry_after_seconds(error)) from error
                raise UserError(
                    f"{self.address} rejects the request: HTTP status {error.code} ({error.reason}).",
                    fix="Check the service's address, the model's name and the key.",
                ) from error
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
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


def _parse_response(response: Any) -> ChatReply:
    content = response["choices"][0]["message"]["content"]
    usage = response.get("usage") or {}
    # Services return null as content if the model refuses to answer.
    return ChatReply(
        "" if content is None else str(content),
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )


def _retry_after_seconds(error: urllib.error.HTTPError) -> float:
    """Return the wait that a service requests in seconds; HTTP-date values are ignored."""
    try:
        return max(0.0, float(error.headers.get("Retry-After") or 0))
    except ValueError:
        return 0.0
