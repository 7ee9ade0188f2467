"""The ledger: append-only lines, each with the hash of the one before, and the state that they add up to."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from expunge.commands.requests.hashing import canonical_json, content_hash, file_hash, model_file_hashes
from expunge.config.load import load_recipe
from expunge.config.recipe import Recipe
from expunge.errors import DataError, UserError, nearest, one_line
from expunge.locking import locked
from expunge.records import SCHEMA_VERSION
from expunge.records.requests import Applied, Certified, Entry, Event, Measured, Opened, Purged, Requested
from expunge.rundir import explain_disk_errors, write_atomic

E = TypeVar("E", bound=Event)

_FIRST = "0" * 64


@dataclass(frozen=True)
class History:
    """Entries of a ledger, and what follows from them."""

    entries: Sequence[Entry]
    hashes: Sequence[str]
    """Hash of each entry, which the next one repeats."""

    @property
    def opened(self) -> Opened:
        """The first entry."""
        event = self.entries[0].event
        assert isinstance(event, Opened)
        return event

    @property
    def requested(self) -> dict[str, Requested]:
        """All requests by id, in order."""
        return {event.id: event for event in self.events(Requested)}

    @property
    def applied(self) -> dict[str, Applied]:
        """The requests that were unlearned, in order."""
        return {event.id: event for event in self.events(Applied)}

    @property
    def pending(self) -> list[Requested]:
        """The requests that were not unlearned yet, in order."""
        applied = self.applied
        return [request for name, request in self.requested.items() if name not in applied]

    @property
    def purged(self) -> set[str]:
        """The requests whose texts were deleted."""
        return {name for event in self.events(Purged) for name in event.ids}

    @property
    def measured(self) -> list[Measured]:
        """All measurements, in order."""
        return self.events(Measured)

    @property
    def certified(self) -> list[Certified]:
        """All certificates, in order."""
        return self.events(Certified)

    def events(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, in order."""
        return [entry.event for entry in self.entries if isinstance(entry.event, kind)]

    def entry_of(self, event: Event) -> tuple[Entry, str]:
        """Return the entry of an event of this history, and its hash."""
        return next(pair for pair in zip(self.entries, self.hashes, strict=True) if pair[0].event is event)

    def request(self, name: str) -> Requested:
        """Return a request by id.

        Raises:
            UserError: There is no such request.
        """
        if name not in self.requested:
            hint = nearest(name, self.requested) or "The ledger has no requests yet."
            raise UserError(f"the ledger has no request '{name}'.", allowed=hint)
        return self.requested[name]

    def application(self, name: str) -> Applied:
        """Return the unlearning of a request by id.

        Raises:
            UserError: There is no such request, or it is still pending.
        """
        self.request(name)
        if name not in self.applied:
            raise UserError(f"request '{name}' was not unlearned yet.", fix="Run: expunge requests apply LEDGER")
        return self.applied[name]


class Ledger:
    """A folder with the ledger, the recipe, the rows of the requests and their runs."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def path(self) -> Path:
        """The file of the chained entries."""
        return self.folder / "ledger.jsonl"

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.folder / "runs"

    @property
    def scratch(self) -> Path:
        """Folder of the files of a measurement, which is deleted after it."""
        return self.folder / "measuring"

    def rows_file(self, request: str, name: str = "forget") -> Path:
        """Return the file with the rows of a set of a request's run."""
        return self.folder / "data" / request / f"{name}.jsonl"

    def history(self) -> History:
        """Read and verify all entries.

        Raises:
            DataError: There is no ledger, or a line was edited, is incomplete, or does not follow the one before.
        """
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{self.folder} has no ledger.jsonl, so it is not a ledger of deletion requests.",
                fix="Create one with: expunge requests init LEDGER RECIPE",
            ) from error
        *lines, rest = content.split(b"\n")
        entries: list[Entry] = []
        hashes: list[str] = []
        for number, line in enumerate([*lines, *([rest] if rest or not lines else [])], 1):
            problem = "is incomplete" if number > len(lines) else ""
            if not problem:
                entry, digest, problem = _read_line(line, number, hashes[-1] if hashes else _FIRST)
            if problem or entry is None:
                raise DataError(
                    f"{self.path}, line {number} {problem}.",
                    fix="Restore ledger.jsonl from a backup; nothing that this line or a later one states is certain.",
                )
            entries.append(entry)
            hashes.append(digest)
        return History(entries, hashes)

    @contextlib.contextmanager
    def writing(self) -> Iterator[History]:
        """Hold the write lock and return the current history; other writers wait."""
        self.history()  # Raises for a folder without a ledger, in which no lock file should appear.
        with locked(self.folder / "write.lock", f"the ledger {self.folder}", wait=True):
            yield self.history()

    def open(self, event: Opened, recipe: Recipe) -> None:
        """Create the ledger.

        Raises:
            UserError: There is one already, or the folder cannot be written.
        """
        with explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "write.lock", f"the ledger {self.folder}", wait=True):
            if self.path.exists():
                raise UserError(f"{self.folder} has a ledger already.", fix="Choose another folder.")
            path = self.folder / "recipe.yaml"
            write_atomic(path, yaml.safe_dump(recipe.resolved(), sort_keys=False))
            self.append(History([], []), event.model_copy(update={"recipe": file_hash(path)}))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Hold the lock of the long tasks: unlearning, measuring and deleting texts; `add` needs only the write lock.

        Raises:
            DataError: There is no ledger, or it was edited.
            UserError: Another process works on this ledger.
        """
        self.history()
        with locked(self.folder / "work.lock", f"the ledger {self.folder}"):
            # A killed measurement left texts here.
            shutil.rmtree(self.scratch, ignore_errors=True)
            yield

    def append(self, history: History, event: Event) -> None:
        """Write the next entry atomically; only while the write lock is held.

        Args:
            history: The history that `writing` returned.
            event: The event.
        """
        previous = history.hashes[-1] if history.hashes else _FIRST
        entry = Entry(index=len(history.entries), date=now(), previous=previous, event=event)
        content = entry.model_dump(mode="json")
        line = canonical_json({"content": content, "hash": content_hash(content)})
        old = self.path.read_bytes() if history.entries else b""
        write_atomic(self.path, old + line.encode() + b"\n")

    def recipe(self, history: History) -> Recipe:
        """Load the recipe of the ledger.

        Raises:
            DataError: recipe.yaml changed since `init`.
        """
        path = self.folder / "recipe.yaml"
        if not path.is_file() or file_hash(path) != history.opened.recipe:
            raise DataError(
                f"{path} is not the recipe that the ledger was opened with.", fix="Restore the file from a backup."
            )
        return load_recipe(path)

    def checkpoint(self, applied: Applied) -> Path:
        """Return the folder of the model after a request.

        Raises:
            DataError: It leads out of the ledger.
        """
        folder = (self.folder / applied.run).resolve()
        if not folder.is_relative_to(self.folder.resolve()):
            raise DataError(f"the run {applied.run} of request '{applied.id}' leads out of {self.folder}.")
        return folder / "checkpoint"

    def current_model(self, history: History) -> Path | None:
        """Return the folder of the current model, after verifying its files; None before any request was unlearned.

        Raises:
            DataError: A file is missing or changed.
        """
        if not history.applied:
            return None
        *_, last = history.applied.values()
        folder = self.checkpoint(last)
        hashes = model_file_hashes(folder) if folder.is_dir() else {}
        if changed := differing_files(last.model_files, hashes):
            raise DataError(
                f"the current model {folder}, which request '{last.id}' left, was changed or is gone: "
                f"{', '.join(changed[:5])}.",
                fix="Restore the folder from a backup.",
            )
        return folder


def differing_files(expected: dict[str, str], actual: dict[str, str]) -> list[str]:
    """Return the names of the files that are missing, changed or additional."""
    return sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read_line(line: bytes, number: int, previous: str) -> tuple[Entry | None, str, str]:
    """Return the entry of a line, its hash, and what is wrong with it."""
    try:
        data = json.loads(line)
        content, digest = data["content"], data["hash"]
        is_canonical = canonical_json({"content": content, "hash": digest}).encode() == line
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, previous, "is not an entry: it was edited or cut"
    if not is_canonical or content_hash(content) != digest:
        return None, previous, "was edited: its content does not match its hash"
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        return None, previous, f"has record format {version}, and this version of expunge reads {SCHEMA_VERSION}"
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        return None, previous, f"is not an entry of this version of expunge ({one_line(error)[:200]})"
    if entry.previous != previous or entry.index != number - 1:
        return None, previous, "does not follow the line before: a line was removed, inserted or moved"
    if isinstance(entry.event, Opened) != (number == 1):
        return None, previous, "is the opening of a ledger in the wrong position, or the opening is missing"
    return entry, digest, ""
