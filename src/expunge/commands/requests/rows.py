"""Rows of requests: find them in the training data, hash them, and keep their texts in files."""

from __future__ import annotations

import difflib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import regex

from expunge.commands.requests.hashing import salted_hash
from expunge.config.recipe import DataConfig, Source
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Row, Sets
from expunge.data.sources.rows import load_rows
from expunge.errors import DataError
from expunge.rundir import write_atomic

_ABOUT = 0.25
"""Smallest share of a group's rows that mention a person whom the group is about."""
_NAME = regex.compile(r"\p{Lu}[\p{L}\p{M}'’-]+(?:\s+\p{Lu}[\p{L}\p{M}'’-]+)+")


def load_training_data(config: DataConfig) -> tuple[Sets, list[Row]]:
    """Load the sets of a recipe, and all rows that the first model was trained on.

    Where an evaluation set has a row too, with paraphrases and wrong answers, that richer row is returned.
    """
    sets = prepare_sets(config)
    richer = {_texts(row): row for name in ("forget", "retain") for row in sets.evaluation.get(name, ())}
    trained = [row for rows in (sets.retain, sets.always, sets.forget) if rows is not None for row in rows]
    return sets, [richer.get(_texts(row), row) for row in trained]


def hash_rows(salt: str, rows: Iterable[Row]) -> dict[str, Row]:
    """Return the rows by the salted hash of question and answer; of equal rows the first."""
    by_hash: dict[str, Row] = {}
    for row in rows:
        by_hash.setdefault(salted_hash(salt, _texts(row)), row)
    return by_hash


def find_listed(path: str, training: Sequence[Row] | None) -> list[Row]:
    """Return the training rows that a file lists by question and answer, or by text.

    Args:
        path: File of rows, in any format that `data.forget.path` accepts.
        training: All training rows; None if they are not known, and the file's rows are returned.

    Raises:
        DataError: A row is not in the training data, or the file is missing, malformed or empty.
    """
    listed = load_rows(Source(path=path), "forget")
    if training is None:
        return listed
    by_texts = {_texts(row): row for row in training}
    for number, row in enumerate(listed, 1):
        if _texts(row) not in by_texts:
            known = {other.question or other.answer: None for other in training}
            text = row.question or row.answer
            similar = difflib.get_close_matches(text, known, n=1)
            hint = f" The most similar row there is '{_shortened(similar[0])}'." if similar else ""
            raise DataError(
                f"row {number} of {path} ('{_shortened(text)}') is not in the training data.{hint}",
                fix="Give the row as it is there: question and answer, letter by letter.",
            )
    return [by_texts[_texts(row)] for row in listed]


def find_person(name: str, training: Sequence[Row]) -> tuple[list[Row], int]:
    """Return the training rows about a person, and the number of further rows that mention the person.

    NAME is the name of a group, or a name that occurs in at least a quarter of the rows of one group; then all rows
    of the group are returned. Rows without a group are returned if they mention the name.

    Raises:
        DataError: No row or several groups are about the person; the message has the nearest name or the groups.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in training:
        groups[row.group].append(row)
    if name in groups:
        return groups[name], 0
    words = r"\s+".join(regex.escape(word) for word in name.split())
    pattern = regex.compile(rf"(?<!\w){words or '(?!)'}(?!\w)", regex.IGNORECASE)
    mentions: dict[str, list[Row]] = defaultdict(list)
    for row in training:
        if pattern.search(row.question) or pattern.search(row.answer):
            mentions[row.group].append(row)
    about = [group for group, rows in mentions.items() if len(rows) >= _ABOUT * len(groups[group])]
    persons = [group for group in about if len(groups[group]) > 1]
    if len(persons) > 1:
        listing = ", ".join(f"{group} ({len(mentions[group])} of {len(groups[group])} rows)" for group in persons[:8])
        raise DataError(
            f"'{name}' can be one of {len(persons)} persons of the training data: {listing}.",
            fix="Give the name of the group, or the rows with --rows.",
        )
    num_mentions = sum(len(rows) for rows in mentions.values())
    if not about:
        problem = f"is mentioned in {num_mentions} rows about others, and no rows are about that person"
        raise DataError(
            f"the person '{name}' {problem if mentions else 'is not in the training data'}.",
            allowed="" if mentions else _nearest_name(name, training),
            fix="Give a name as the rows write it, the name of a group, or the rows with --rows.",
        )
    rows = [row for group in about for row in groups[group]]
    return rows, num_mentions - sum(len(mentions[group]) for group in about)


def _nearest_name(name: str, training: Sequence[Row]) -> str:
    """Return a hint with the most similar group or name of the training data; empty if none is similar."""
    counts = Counter(match.group() for row in training for match in _NAME.finditer(f"{row.question}\n{row.answer}"))
    known = {regex.sub(r"['’]s?$", "", found) for found in counts} | {row.group for row in training}
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"Did you mean '{similar[0]}'?" if similar else ""


def write_row_file(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines that `data.forget.path` and `data.retain.path` accept, atomically."""
    write_atomic(path, "".join(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in rows))


def read_row_file(path: Path) -> list[Row]:
    """Read rows that `write_row_file` wrote."""
    return load_rows(Source(path=str(path)), path.stem)


def _record(row: Row) -> Mapping[str, object]:
    texts = {"question": row.question, "answer": row.answer} if row.question else {"text": row.answer}
    optional = {
        "paraphrased_question": row.paraphrased_question,
        "paraphrased_answer": row.paraphrased_answer,
        "perturbed_answers": list(row.perturbed_answers),
    }
    return {**texts, "group": row.group, **{name: value for name, value in optional.items() if value}}


def _texts(row: Row) -> tuple[str, str]:
    return (row.question, row.answer)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
