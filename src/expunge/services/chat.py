"""Language models behind a service that speaks OpenAI's protocol, and the patience that such services ask for."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, TypeVar

from expunge.errors import UserError
from expunge.rundir import explain_disk_errors

T = TypeVar("T")

Messages = Sequence[Mapping[str, str]]
"""A conversation: mappings with 'role' (system, user or assistant) and 'content'."""

_LONGEST_WAIT_SECONDS = 120.0
"""A service that asks for more is as good as gone."""


class ReplyError(Exception):
    """One attempt failed in a way that another attempt may mend."""

    def __init__(self, problem: str, wait_seconds: float = 0.0) -> None:
        self.wait_seconds = wait_seconds
        super().__init__(problem)


@dataclass(frozen=True)
class ChatReply:
    """What a service answered, and what it counted."""

    text: str
    prompt_tokens: int = 0
    """0 where the service does not say."""
    completion_tokens: int = 0


@dataclass(frozen=True)
class ChatService:
    """A model behind `<base_url>/chat/completions`.

    Args:
        base_url: Address of the service up to its version, such as http://localhost:8000/v1.
        model: Name of the model as the service knows it.
        api_key_env: Environment variable that holds the key; None for a service without one.
        timeout_seconds: Longest wait for one reply.

    Raises:
        UserError: The environment variable is not set, or the address is none.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"'{self.base_url}' is not the address of a service.",
                fix="Give it with its scheme and version, such as http://localhost:8000/v1.",
            )
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise UserError(
                f"the environment variable {self.api_key_env} is not set.",
                fix="Set it to the service's key, or leave out api_key_env if there is none.",
            )

    @property
    def address(self) -> str:
        """Where requests go."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    def ask(self, messages: Messages, *, temperature: float = 0.0, max_tokens: int | None = None) -> ChatReply:
        """Send a conversation and return the reply.

        Args:
            messages: The conversation so far.
            temperature: 0 for the likeliest reply.
            max_tokens: Longest reply in tokens; None leaves it to the service.

        Raises:
            ReplyError: No usable reply this time: a timeout, a rate limit, an error of the service, or no JSON.
            UserError: The service refuses the request for good.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "temperature": temperature}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers=headers)
        if self.api_key_env:
            # Never sent on to where a redirect may lead.
            request.add_unredirected_header("Authorization", f"Bearer {os.environ[self.api_key_env]}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                return _reply(json.loads(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ReplyError(f"{type(error).__name__}: {error}") from error

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in {408, 409, 425, 429} or error.code >= 500:
            return ReplyError(f"HTTP status {error.code}", _retry_after(error.headers))
        return UserError(
            f"{self.address} refuses the request: HTTP status {error.code} ({error.reason}).",
            fix="Check the service's address, the model's name and the key.",
        )


def chat_service(
    base_url: str, model: str, *, api_key_env: str | None = None, timeout_seconds: float = 120.0
) -> Callable[[str], str]:
    """A function that sends a prompt to a service and returns the reply's text; the arguments of `ChatService`.

    Raises:
        UserError: The environment variable is not set, or the service refuses the request for good.
    """
    service = ChatService(base_url, model, api_key_env, timeout_seconds)
    return lambda prompt: service.ask([{"role": "user", "content": prompt}]).text


def with_retries(attempt: Callable[[], T], attempts: int, backoff_seconds: float) -> T:
    """Try until it works, waiting twice as long each time, and at least as long as the service asks for.

    Args:
        attempt: What to do; raises `ReplyError` where trying again may help.
        attempts: Tries, at least 1.
        backoff_seconds: First wait.

    Raises:
        ReplyError: The last attempt failed too, or the service asks for a wait of more than two minutes.
    """
    for number in range(1, attempts + 1):
        try:
            return attempt()
        except ReplyError as error:
            if number == attempts or error.wait_seconds > _LONGEST_WAIT_SECONDS:
                raise
            time.sleep(max(backoff_seconds * 2 ** (number - 1), error.wait_seconds))
    raise AssertionError("attempts is at least 1")


class ReplyFile:
    """Replies that are worth keeping, one JSON object per line; each is written at once.

    Several threads may add to it. A line that a killed process left unfinished is skipped.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.place.is_file():
            return
        for line in self.place.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one entry."""
        with self._lock, explain_disk_errors(self.place):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with self.place.open("a", encoding="utf-8") as stream:
                # The line break goes first: what stands before may be a half-written line.
                stream.write("\n" + json.dumps(entry, ensure_ascii=False))


def _reply(answer: Any) -> ChatReply:
    content = answer["choices"][0]["message"]["content"]
    counted = answer.get("usage") or {}
    # Services write null where a model refuses to answer.
    return ChatReply(
        "" if content is None else str(content),
        int(counted.get("prompt_tokens") or 0),
        int(counted.get("completion_tokens") or 0),
    )


def _retry_after(headers: Message) -> float:
    """Seconds that a service asks to wait; a date, which the header may hold too, counts as no wish."""
    try:
        return max(0.0, float(headers.get("Retry-After") or 0))
    except ValueError:
        return 0.0
