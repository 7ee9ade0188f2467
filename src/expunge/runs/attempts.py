"""Attempts of audits on disk: a killed audit resumes after the last finished stage of the last model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from expunge.audits.base import Attempt
from expunge.console import is_main_process
from expunge.distributed import broadcast_from_main, wait
from expunge.records import Cost, Record
from expunge.rundir import fingerprint, read_record, write_record
from expunge.runs.results import read_rows, without_text, write_rows


class _StoredAttempt(Record):
    name: str
    measure: str
    cost: Cost
    utility: float | None
    not_counted: str
    facts: dict[str, float]
    num_rows: int


class _StoredStage(Record):
    schema_version: int
    attempts: list[_StoredAttempt] = Field(default_factory=list)


@dataclass(frozen=True)
class AttemptStore:
    """Finished attempts, in files named by everything that can change them.

    Args:
        folder: Folder of the files; None stores nothing.
        sensitive: Replace texts by hashes.
    """

    folder: Path | None
    sensitive: bool = False

    def attempts(self, name: str, identity: Any, run: Callable[[], Sequence[Attempt]]) -> list[Attempt]:
        """Return the stored attempts of a stage, or run the stage and store them.

        Args:
            name: Readable start of the file's name.
            identity: JSON-serialisable values that identify the stage: models, data, prompt and settings.
            run: Runs the stage.
        """
        if self.folder is None:
            return list(run())
        path = self.folder / f"{name}-{fingerprint(identity)}.json"
        # The record is written last, so that its presence means that both files are complete.
        if not broadcast_from_main(path.is_file()):
            attempts = list(run())
            if is_main_process():
                self._write(path, attempts)
            wait()
        return self._read(path)

    def _write(self, path: Path, attempts: Sequence[Attempt]) -> None:
        from expunge.records import SCHEMA_VERSION

        rows = [row for attempt in attempts for row in attempt.rows]
        write_rows(path.with_suffix(".parquet"), [without_text(row) for row in rows] if self.sensitive else rows)
        stored = [
            _StoredAttempt(
                name=attempt.name,
                measure=attempt.measure,
                cost=attempt.cost,
                utility=attempt.utility,
                not_counted=attempt.not_counted,
                facts=attempt.facts,
                num_rows=len(attempt.rows),
            )
            for attempt in attempts
        ]
        write_record(path, _StoredStage(schema_version=SCHEMA_VERSION, attempts=stored))

    def _read(self, path: Path) -> list[Attempt]:
        rows = read_rows(path.with_suffix(".parquet"))
        attempts, start = [], 0
        for stored in read_record(path, _StoredStage).attempts:
            attempts.append(
                Attempt(
                    name=stored.name,
                    rows=rows[start : start + stored.num_rows],
                    measure=stored.measure,
                    cost=stored.cost,
                    utility=stored.utility,
                    not_counted=stored.not_counted,
                    facts=stored.facts,
                )
            )
            start += stored.num_rows
        return attempts


def with_seconds(attempts: Sequence[Attempt], seconds: float) -> list[Attempt]:
    """Return attempts that share the seconds of their stage equally, unless the attack has measured its own."""
    share = round(seconds / max(len(attempts), 1), 3)
    return [
        attempt if attempt.cost.seconds else replace(attempt, cost=attempt.cost.model_copy(update={"seconds": share}))
        for attempt in attempts
    ]
