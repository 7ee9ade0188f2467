"""Convert records to rows: map their columns and check that no row lacks a text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from expunge.config.recipe import Source
from expunge.console import note
from expunge.data.sets import Row
from expunge.data.sources.cells import last_exchange, to_group, to_string
from expunge.data.sources.readers import SourceRecord, read_records
from expunge.errors import DataError, nearest

COLUMNS = (
    "question",
    "answer",
    "text",
    "messages",
    "group",
    "paraphrased_question",
    "paraphrased_answer",
    "perturbed_answers",
)
"""Column names that need no mapping."""


def load_rows(source: Source, name: str) -> list[Row]:
    """Load the rows of a file, a folder of texts or a hub data set.

    A row has a question and an answer, or a text (then `question` is empty and `answer` is the text), or the messages
    of a conversation, of which the last question and the answer to it are used. Without a column `group`, the group of
    a text in a folder is its file name, and any other row is its own group.
    TOFU's column name `perturbed_answer` is accepted too.

    Args:
        source: Location of the rows and mapping of their columns.
        name: Name of the set; row i gets the id "<name>/<i>".

    Raises:
        DataError: The source is missing, unreadable or empty; a column is missing; a row has no answer.
    """
    _check_mapping(source)
    records = read_records(source)
    if source.min_chars:
        records = _drop_short_texts(records, source.columns.get("text", "text"), source.min_chars)
    selected = list(islice(records, source.limit))
    if not selected:
        minimum = f" with at least {source.min_chars} characters" if source.min_chars else ""
        raise DataError(f"{source.path} has no rows{minimum}.", fix="Provide a file with at least one row.")
    columns = _map_columns(source, available=list(dict.fromkeys(key for _, values in selected for key in values)))
    if source.max_tokens and "text" not in columns:
        raise DataError(
            f"max_tokens has no effect on {source.path}, which has questions and answers.", fix="Remove max_tokens."
        )

    rows = []
    num_shortened = 0
    for index, (location, values) in enumerate(selected):
        fields = {
            field: (to_group if field == "group" else to_string)(values.get(column), location, column)
            for field, column in columns.items()
            if field not in ("perturbed_answers", "messages")
        }
        if "messages" in columns:
            fields["question"], fields["answer"], has_context = last_exchange(
                values.get(columns["messages"]), location, columns["messages"]
            )
            num_shortened += has_context
        body = "text" if "text" in columns else "answer"
        if not fields[body].strip():
            raise DataError(
                f"{location} has no {body}.",
                fix=f"Fill in '{columns.get(body, 'messages')}' or remove the row; every row needs one.",
            )
        if body == "answer" and not fields["question"].strip():
            raise DataError(
                f"{location} has no question.", fix="Fill it in, or provide the set as plain text (column text)."
            )
        perturbed = values.get(columns["perturbed_answers"]) if "perturbed_answers" in columns else None
        rows.append(
            Row(
                id=f"{name}/{index}",
                question=fields.get("question", ""),
                answer=fields[body],
                group=fields.get("group") or f"{name}/{index}",
                paraphrased_question=fields.get("paraphrased_question", ""),
                paraphrased_answer=fields.get("paraphrased_answer", ""),
                perturbed_answers=_to_strings(perturbed, location),
                max_tokens=source.max_tokens,
            )
        )
    if num_shortened:
        note(
            f"Note: {num_shortened} of {len(rows)} conversations of {source.path} have earlier turns or a system "
            "message. Only their last question and the answer to it are used; prompt.system sets a system message."
        )
    return rows


def _check_mapping(source: Source) -> None:
    for column in source.columns:
        if column not in COLUMNS:
            raise DataError(f"columns: there is no field '{column}'.", allowed=nearest(column, COLUMNS))
    for body, others in (("text", {"question", "answer"}), ("messages", {"question", "answer", "text"})):
        if body in source.columns and source.columns.keys() & others:
            raise DataError(
                f"columns: both {body} and {'question or answer' if body == 'text' else 'another text'} are mapped.",
                fix="A row is a plain text, a question with an answer, or the messages of a conversation; keep one.",
            )


def _drop_short_texts(records: Iterator[SourceRecord], column: str, min_chars: int) -> Iterator[SourceRecord]:
    for location, values in records:
        if column not in values:
            raise DataError(
                f"min_chars needs plain text, but {location} has no column '{column}'.",
                allowed=f"Its columns: {', '.join(values)}.",
                fix="Name the column with columns: {text: <name>}, or remove min_chars.",
            )
        text = to_string(values[column], location, column)
        if len(text) >= min_chars and text.strip():
            yield location, values


def _map_columns(source: Source, available: list[str]) -> dict[str, str]:
    """Return the column of the source for each field of a row that it has."""
    for field, column in source.columns.items():
        if column not in available:
            raise DataError(
                f"columns: {source.path} has no column '{column}' (mapped to {field}).",
                allowed=f"Its columns: {', '.join(available)}.",
                fix=nearest(column, available) if len(available) > 1 else "",
            )
    columns = {field: field for field in COLUMNS if field in available}
    if "perturbed_answer" in available:
        columns.setdefault("perturbed_answers", "perturbed_answer")
    columns.update(source.columns)
    # Messages are read only if a mapping asks for them, or if there is nothing else.
    if "messages" in source.columns or (
        "messages" in columns and "text" not in columns and not {"question", "answer"} <= columns.keys()
    ):
        for field in ("question", "answer", "text"):
            columns.pop(field, None)
        return columns
    columns.pop("messages", None)
    # A source with both kinds of columns has questions and answers, unless a mapping asks for its text.
    if "text" in source.columns or not {"question", "answer"} <= columns.keys():
        for field in ("question", "answer") if "text" in columns else ():
            columns.pop(field, None)
    else:
        columns.pop("text", None)
    missing = [field for field in ("question", "answer") if field not in columns]
    if missing and "text" not in columns:
        raise DataError(
            f"{source.path} has no column '{missing[0]}'.",
            allowed=f"Its columns: {', '.join(available)}.",
            fix="Map the columns, such as columns: {question: <name>, answer: <name>}, {text: <name>}, or "
            "{messages: <name>} for conversations.",
        )
    return columns


def _to_strings(value: Any, location: str) -> tuple[str, ...]:
    # In CSV, a cell contains a JSON list of answers or a single answer.
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{location}: the list of perturbed answers is not valid JSON: {error.msg}.") from error
        except (RecursionError, ValueError) as error:
            problem = "is nested too deeply or contains an invalid number"
            raise DataError(f"{location}: the list of perturbed answers {problem}.") from error
    items = value if isinstance(value, list) else [value]
    answers = tuple(to_string(item, location, "perturbed_answers") for item in items)
    if isinstance(value, list) and not all(answer.strip() for answer in answers):
        raise DataError(f"{location}: one of the perturbed answers is empty.", fix="Fill it in or remove it.")
    return tuple(answer for answer in answers if answer.strip())
