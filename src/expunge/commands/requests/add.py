"""Add a deletion request to a ledger."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.commands.requests.ledger import History, Ledger
from expunge.commands.requests.rows import find_listed, find_person, hash_rows, load_training_data, write_row_file
from expunge.data.sets import Row
from expunge.errors import UserError
from expunge.records.requests import Requested

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Added:
    """A request that was added."""

    request: Requested
    mentions: dict[str, int]
    """Person -> number of rows about others that mention the name and stay."""


def add(
    folder: str | Path,
    request: str,
    *,
    persons: Sequence[str] = (),
    rows: str | None = None,
    date: str | None = None,
) -> Added:
    """Add a request; its texts go to a file that `purge` deletes, the ledger itself has only salted hashes.

    Args:
        folder: The ledger's folder.
        request: Id of the request; it becomes part of file names and of certificates, so it should not be a name.
        persons: Names of persons whose rows are to be unlearned.
        rows: File of rows to be unlearned, instead of persons.
        date: Day of the request, YYYY-MM-DD; None for today.

    Raises:
        UserError: The id is taken or malformed, the date is no day or in the future, the request is empty, or a row or
            a person is not in the training data.
    """
    ledger = Ledger(folder)
    history = ledger.history()
    _check_id(history, request)
    received = _day(date)
    if bool(persons) == (rows is not None):
        raise UserError("a request names either persons or a file of rows.", fix="Give --person NAME, or --rows FILE.")
    selected, mentions = _select(ledger, history, persons, rows)
    by_hash = hash_rows(history.opened.salt, selected)
    with ledger.writing() as current:
        _check_id(current, request)
        _check_new(current, list(by_hash))
        event = Requested(
            id=request,
            received=received,
            by="persons" if persons else "rows",
            num_persons=len(set(persons)),
            rows=list(by_hash),
        )
        # Before the entry, so that no entry is without its rows.
        write_row_file(ledger.rows_file(request), by_hash.values())
        ledger.append(current, event)
    return Added(event, mentions)


def _select(
    ledger: Ledger, history: History, persons: Sequence[str], rows: str | None
) -> tuple[list[Row], dict[str, int]]:
    """Return the rows of a request, and the number of other rows that mention each person."""
    is_known = history.opened.knows_training_data
    # The training data is needed to find persons, and to refuse rows that are not in it.
    training = load_training_data(ledger.recipe(history).data)[1] if persons or is_known else None
    if rows is not None:
        return find_listed(rows, training), {}
    selected: list[Row] = []
    mentions = {}
    for person in persons:
        found, num_others = find_person(person, training or [])
        selected += found
        if num_others:
            mentions[person] = num_others
    return selected, mentions


def _check_id(history: History, request: str) -> None:
    if not _ID.fullmatch(request):
        raise UserError(
            f"'{request}' cannot be the id of a request.",
            allowed="Allowed: up to 64 letters, digits, dots, hyphens and underscores, a letter or digit first.",
        )
    if request in history.requested:
        raise UserError(f"the ledger has a request '{request}' already.", fix="Give another id.")


def _check_new(history: History, rows: Sequence[str]) -> None:
    """Raise if earlier requests contain every row."""
    earlier = {digest: name for name, request in history.requested.items() for digest in request.rows}
    if all(digest in earlier for digest in rows):
        names = sorted({earlier[digest] for digest in rows})
        raise UserError(
            f"every row of this request is part of an earlier one: {', '.join(names)}.",
            fix="Nothing needs to be added; see: expunge requests status LEDGER",
        )


def _day(date: str | None) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    if date is None:
        return today.isoformat()
    try:
        day = datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UserError(f"'{date}' is not a day.", fix="Write it as YYYY-MM-DD.") from error
    # A day later is today in time zones ahead of UTC.
    if day > today + datetime.timedelta(days=1):
        raise UserError(f"the date {date} is in the future.", fix="Give the day on which the request arrived.")
    return day.isoformat()
