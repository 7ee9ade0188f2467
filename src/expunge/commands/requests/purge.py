"""Delete the texts of unlearned requests; their salted hashes stay in the ledger."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.benchmarks.base import SampleRow
from expunge.commands.requests.hashing import salted_hash
from expunge.commands.requests.ledger import History, Ledger
from expunge.commands.requests.rows import read_row_file, write_row_file
from expunge.records.requests import Purged
from expunge.report.html import write_report
from expunge.runs.results import WITHHELD, read_rows, without_text, write_rows

_OTHER_SETS = ("retain", "holdout")


def purge(folder: str | Path, requests: Sequence[str] = ()) -> Purged:
    """Delete the texts of requests from the ledger's files and from the records of its runs.

    Rows of requests leave all row files of the ledger; in per-sample rows and transcripts of audits their texts are
    replaced by salted hashes, and reports are written again. Caches and prepared data, which have texts too, are
    deleted. The training data itself is not touched.

    Args:
        folder: The ledger's folder.
        requests: Ids; none for all requests that were unlearned.

    Returns:
        The requests that were purged now, without those that were purged earlier.

    Raises:
        UserError: There is no such request, or it is still pending and needs its texts.
    """
    ledger = Ledger(folder)
    with ledger.working():
        history = ledger.history()
        for name in requests:
            history.application(name)
        names = [name for name in dict.fromkeys(requests or history.applied) if name not in history.purged]
        if not names:
            return Purged(ids=[], num_texts=0)
        event = Purged(ids=names, num_texts=_delete_texts(ledger, history, names))
        with ledger.writing() as current:
            ledger.append(current, event)
    return event


def _delete_texts(ledger: Ledger, history: History, names: Sequence[str]) -> int:
    """Delete the texts of requests, their own files last, so that an interrupted purge can be repeated."""
    files = {name: ledger.rows_file(name) for name in names}
    rows = {name: read_row_file(path) for name, path in files.items() if path.is_file()}
    persons = {name for name in names if history.requested[name].by == "persons"}
    hidden = Hidden(
        salt=history.opened.salt,
        texts=frozenset((row.question, row.answer) for request in rows.values() for row in request),
        groups=frozenset(row.group for name, request in rows.items() if name in persons for row in request),
    )
    shutil.rmtree(ledger.runs / "shared" / "evaluations", ignore_errors=True)
    num_texts = 0
    pending = {ledger.rows_file(request.id) for request in history.pending}
    for path in sorted(ledger.folder.glob("data/*/*.jsonl")):
        if path not in pending and path not in files.values():
            num_texts += _delete_rows(path, hidden)
    runs = {ledger.checkpoint(history.applied[name]).parent for name in names}
    for run in sorted(path.parent.resolve() for path in ledger.runs.glob("*/recipe.yaml")):
        num_texts += _hide_rows(run, hidden, is_own=run in runs)
    for name, path in files.items():
        num_texts += len(rows.get(name, ()))
        path.unlink(missing_ok=True)
    return num_texts


@dataclass(frozen=True)
class Hidden:
    """Recognises rows whose texts must go."""

    salt: str
    texts: frozenset[tuple[str, str]]
    groups: frozenset[str]
    """Groups of which all rows go."""

    def has(self, question: str, answer: str, group: str) -> bool:
        """Return whether a row, or the longer text that it is a piece of, must go."""
        if group in self.groups or (question, answer) in self.texts:
            return True
        return not question and any(not other and answer in text for other, text in self.texts)

    def digest(self, text: str) -> str:
        """Return the salted hash of a text."""
        return salted_hash(self.salt, text)

    def hide(self, row: SampleRow) -> SampleRow:
        """Replace the texts of a row, and the name of its group, by hashes."""
        return {**without_text(row, self.digest), "group": self.digest(str(row.get("group")))}


def _delete_rows(path: Path, hidden: Hidden) -> int:
    rows = read_row_file(path) if path.stat().st_size else []
    rest = [row for row in rows if not hidden.has(row.question, row.answer, row.group)]
    if not rest:
        path.unlink()
    elif len(rest) < len(rows):
        write_row_file(path, rest)
    return len(rows) - len(rest)


def _hide_rows(run: Path, hidden: Hidden, is_own: bool) -> int:
    """Replace texts in the per-sample rows of a run; of a run of the request itself, in all but retained rows."""
    if is_own:
        shutil.rmtree(run / "prepared", ignore_errors=True)
    num_texts = 0
    for path in sorted(run.rglob("*.parquet")):
        rows = read_rows(path)
        found = [
            not str(row.get("answer")).startswith(WITHHELD)
            and (
                (is_own and row.get("set") not in _OTHER_SETS)
                or hidden.has(str(row.get("question") or ""), str(row.get("answer") or ""), str(row.get("group")))
            )
            for row in rows
        ]
        if any(found):
            write_rows(path, [hidden.hide(row) if flag else row for row, flag in zip(rows, found, strict=True)])
            num_texts += sum(found)
    if (run / "report.html").is_file():
        write_report([run])
    return num_texts
