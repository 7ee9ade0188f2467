"""Records become rows: which column is what, and what a row must have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from expunge.config.recipe import Source
from expunge.data.sets import Row
from expunge.data.sources.readers import Record, read_records
from expunge.errors import DataError, nearest

COLUMNS = (
    "question",
    "answer",
    "text",
    "group",
    "paraphrased_question",
    "paraphrased_answer",
    "perturbed_answers",
)
"""Our names; a file whose columns are called so needs no map."""


def load_rows(source: Source, name: str) -> list[Row]:
    """Rows of a file, a folder of texts or a hub data set.

    A row has a question and an answer, or a text (then `question` is empty and `answer` holds the text).
    Without a column `group`, a text of a folder has its file's name as group and any other row is one of its own.
    TOFU's name `perturbed_answer` is understood.

    Args:
        source: Where the rows are, and which of its columns is what.
        name: Name of the set; row i gets the id "<name>/<i>".

    Raises:
        DataError: The source is missing, unreadable or empty; a column is missing; a row has no answer.
    """
    _check_map(source)
    records = list(islice(_long_enough(source, read_records(source)), source.limit))
    if not records:
        least = f" with at least {source.min_chars} characters" if source.min_chars else ""
        raise DataError(f"{source.path} has no rows{least}.", fix="Give a file with at least one row.")
    found = list(dict.fromkeys(key for _, record in records for key in record))
    columns = _columns(source, found)
    if source.max_tokens and "text" not in columns:
        raise DataError(f"max_tokens has no effect on {source.path}, which holds questions and answers.")
    rows = [_row(f"{name}/{index}", where, record, columns) for index, (where, record) in enumerate(records)]
    return [replace(row, max_tokens=source.max_tokens) for row in rows] if source.max_tokens else rows


def _long_enough(source: Source, records: Iterator[Record]) -> Iterator[Record]:
    column = source.columns.get("text", "text")
    for where, record in records:
        if source.min_chars:
            if column not in record:
                raise DataError(
                    f"min_chars needs plain text, but {where} has no column '{column}'.",
                    allowed=f"Its columns: {', '.join(record)}.",
                    fix="Name it with columns: {text: <name>}, or remove min_chars.",
                )
            text = _string(record[column], where, column)
            if len(text) < source.min_chars or not text.strip():
                continue
        yield where, record


def _check_map(source: Source) -> None:
    for ours in source.columns:
        if ours not in COLUMNS:
            raise DataError(f"columns: '{ours}' is not a part of a row.", allowed=nearest(ours, COLUMNS))
    if "text" in source.columns and source.columns.keys() & {"question", "answer"}:
        raise DataError(
            "columns: maps text and also question or answer.",
            fix="A row is plain text, or a question with its answer; keep one of the two.",
        )


def _columns(source: Source, found: list[str]) -> dict[str, str]:
    """Our name -> the file's name, for the columns that this file has."""
    for ours, theirs in source.columns.items():
        if theirs not in found:
            raise DataError(
                f"columns: {source.path} has no column '{theirs}' (asked for as {ours}).",
                allowed=f"Its columns: {', '.join(found)}.",
                fix=nearest(theirs, found) if len(found) > 1 else "",
            )
    columns = {name: name for name in COLUMNS if name in found}
    if "perturbed_answer" in found:
        columns.setdefault("perturbed_answers", "perturbed_answer")
    columns.update(source.columns)
    if "text" in source.columns or not {"question", "answer"} <= columns.keys():
        for name in ("question", "answer") if "text" in columns else ():
            columns.pop(name, None)
    else:
        columns.pop("text", None)
    missing = [name for name in ("question", "answer") if name not in columns]
    if missing and "text" not in columns:
        raise DataError(
            f"{source.path} has no column '{missing[0]}'.",
            allowed=f"Its columns: {', '.join(found)}.",
            fix="Say which is what, such as columns: {question: <name>, answer: <name>}, or {text: <name>}.",
        )
    return columns


def _row(id: str, where: str, record: dict[str, Any], columns: dict[str, str]) -> Row:
    def read(name: str) -> str:
        return _string(record.get(columns.get(name, "")), where, columns.get(name, name))

    body = "text" if "text" in columns else "answer"
    if not read(body).strip():
        raise DataError(
            f"{where} has no {body}.",
            fix=f"Fill in '{columns[body]}' or remove the row; every row needs one.",
        )
    if body == "answer" and not read("question").strip():
        raise DataError(f"{where} has no question.", fix="Fill it in, or give the set as plain text (column text).")
    return Row(
        id=id,
        question=read("question"),
        answer=read(body),
        group=read("group") or id,
        paraphrased_question=read("paraphrased_question"),
        paraphrased_answer=read("paraphrased_answer"),
        perturbed_answers=_strings(record.get(columns.get("perturbed_answers", "")), where),
    )


def _string(value: Any, where: str, column: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{where}: '{column}' is a {type(value).__name__}, not text.", fix="Put the value in quotes.")


def _strings(value: Any, where: str) -> tuple[str, ...]:
    # A CSV cell holds several answers as a JSON list; any other cell is one answer.
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: the list of perturbed answers is not valid JSON: {error.msg}.") from error
    items = value if isinstance(value, list) else [value]
    answers = tuple(_string(item, where, "perturbed_answers") for item in items)
    if isinstance(value, list) and not all(answer.strip() for answer in answers):
        raise DataError(f"{where}: one of the perturbed answers is empty.", fix="Fill it in or remove it.")
    return tuple(answer for answer in answers if answer.strip())
