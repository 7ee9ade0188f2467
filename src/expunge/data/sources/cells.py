"""Convert the values of records to texts, groups, and questions with their answers."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

from expunge.errors import DataError

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
    "developer": "system",
}
"""Names of the roles in chat messages, of OpenAI and of ShareGPT, and what they mean."""


def to_string(value: Any, location: str, column: str) -> str:
    """Return a text, or "" if it is missing; whole numbers are accepted.

    Raises:
        DataError: The value is not text, or contains half of a character.
    """
    if _is_missing(value):
        return ""
    if isinstance(value, str):
        return _valid(value, location, column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        f"{location}: '{column}' is a {type(value).__name__}, not text.", fix="Write the value as text, in quotes."
    )


def to_group(value: Any, location: str, column: str) -> str:
    """Return a group as text, or "" if it is missing; equal numbers give equal groups in every file format.

    Raises:
        DataError: The value is a list or an object.
    """
    if _is_missing(value):
        return ""
    if isinstance(value, str):
        return _valid(value, location, column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | decimal.Decimal):
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise DataError(
        f"{location}: '{column}' is a {type(value).__name__}, but a group is a single text, number or date.",
        fix="Map another column: columns: {group: <name>}.",
    )


def _valid(text: str, location: str, column: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{location}: '{column}' contains \\u{ord(text[error.start]):04x}, half of a character: the text was cut "
            "inside an emoji or another rare character.",
            fix="Remove it or restore the full character.",
        ) from error
    return text


def _is_missing(value: Any) -> bool:
    # pandas writes NaN for a missing value.
    return value is None or (isinstance(value, float) and math.isnan(value))


def last_exchange(value: Any, location: str, column: str) -> tuple[str, str, bool]:
    """Return the last question of a conversation, the answer to it, and whether anything precedes them.

    Raises:
        DataError: The messages are malformed, or the last two are not a question and its answer.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{location}: '{column}' is not valid JSON: {error.msg}.") from error
        except (RecursionError, ValueError) as error:
            raise DataError(f"{location}: '{column}' is nested too deeply or contains an invalid number.") from error
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(
            f"{location}: '{column}' is not a list of messages.",
            fix='Write it as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
        )
    roles: list[str] = []
    for message in value:
        name = str(message.get("role", message.get("from")))
        if name not in _ROLES:
            raise DataError(
                f"{location}: '{column}' has a message of the role '{name}'.",
                allowed="Allowed: system, user and assistant.",
                fix="Remove the row, or write it as question and answer.",
            )
        roles.append(_ROLES[name])
    if roles[-2:] != ["user", "assistant"]:
        last = f"ends with a message of the role '{roles[-1]}'" if roles else "is empty"
        problem = last if roles[-1:] != ["assistant"] else "has no question before its last answer"
        raise DataError(
            f"{location}: '{column}' {problem}.", fix="The last two messages must be a question and the answer to it."
        )
    if roles[-3:-2] == ["user"]:
        raise DataError(f"{location}: '{column}' has two user messages in a row.", fix="Join them into one.")
    question, answer = (_content(message, location, column) for message in value[-2:])
    return question, answer, len(value) > 2


def _content(message: dict[str, Any], location: str, column: str) -> str:
    content = message.get("content", message.get("value"))
    if not isinstance(content, list):
        return to_string(content, location, column)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type", "unknown") if isinstance(part, dict) else type(part).__name__
            raise DataError(
                f"{location}: '{column}' has a part of the type '{kind}', but only text can be read.",
                fix="Remove the row.",
            )
        texts.append(text)
    return "".join(texts)
