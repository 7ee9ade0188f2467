"""A folder of runs: which runs it has, their rows in the list, and their records, read again only after a change."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from expunge.errors import DataError, UserError
from expunge.records import Battery, Manifest, RunSummary, Value
from expunge.records.format import format_value
from expunge.report.load import LoadedRun, load_run
from expunge.report.tables import metric_title
from expunge.rundir import read_record

_FILES = ("recipe.yaml", "summary.json", "manifest.json", "battery.json", "train.jsonl", "report.html")
_FOLDERS = ("results", "samples", "audits", "stages")
_ACTIVE_SECONDS = 120.0
"""A run without a summary counts as running until its files have not changed for this long."""
_LOADED_RUNS = 16
"""Runs whose records stay in memory."""
# The parser in C is ten times faster, which matters for a thousand recipes.
_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Signature = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of each file that is read."""


class UnknownNameError(UserError):
    """A run or a file of a run that is not in the folder."""


class OutsideError(UserError):
    """A link that leads out of the folder of runs."""


class RunRow(BaseModel):
    """One run in the list."""

    name: str
    """Name of its folder."""
    recipe: str = ""
    method: str = ""
    model: str = ""
    data: str = ""
    created: str = ""
    """Time at which it finished, or at which its recipe was written."""
    status: str = ""
    """'finished', 'running' or 'unfinished'."""
    verdict: str = ""
    forgot: bool | None = None
    kept: bool | None = None
    audits: str = ""
    """Outcome of its audits; empty without any."""
    headlines: list[dict[str, Any]] = []
    """Title, point and text of each headline of the unlearned model."""
    problem: str = ""
    """Why its records cannot be read."""


class RunFolder:
    """A folder whose subfolders are runs.

    Runs are found by listing the folder, so a name is only ever compared with the names that exist. Nothing outside the
    folder is read, also not through links.

    Args:
        root: The folder.

    Raises:
        DataError: It does not exist or has no runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._lock = threading.Lock()
        self._rows: dict[str, tuple[Signature, RunRow]] = {}
        self._runs: dict[str, tuple[Signature, LoadedRun]] = {}
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise DataError(f"{root} {what}.", fix="Give the folder that holds the run folders, such as runs.")
        if (self.root / "recipe.yaml").is_file():
            raise DataError(
                f"{root} is one run, not a folder of runs.", fix=f"Give the folder above it: {self.root.parent}"
            )
        if not self._folders():
            raise DataError(
                f"{root} has no runs: no folder in it has a recipe.yaml, which `expunge run` writes first.",
                fix="Give another folder, or start a run: expunge quickstart",
            )

    def rows(self) -> list[RunRow]:
        """Return one row per run, the newest first; only runs that changed are read again."""
        rows = [self._row(name, path) for name, path in self._folders().items()]
        return sorted(rows, key=lambda row: row.created, reverse=True)

    def row(self, name: str) -> RunRow:
        """Return the row of one run.

        Raises:
            UnknownNameError: There is no such run.
        """
        return self._row(name, self.path(name))

    def path(self, name: str) -> Path:
        """Return the folder of a run.

        Raises:
            UnknownNameError: There is no such run.
        """
        folders = self._folders()
        if name not in folders:
            raise UnknownNameError(f"there is no run '{name}' in {self.root}.", fix="Choose one of the list.")
        return folders[name]

    def run(self, name: str) -> LoadedRun:
        """Return the records of a run.

        Raises:
            UnknownNameError: There is no such run.
            OutsideError: One of its files is a link that leads out of the folder.
            DataError: A record is damaged.
        """
        folder = self.path(name)
        signature = self._signature(folder, *(folder / sub for sub in _FOLDERS))
        with self._lock:
            stored = self._runs.get(name)
        if stored is not None and stored[0] == signature:
            return stored[1]
        run = load_run(folder)
        with self._lock:
            self._runs.pop(name, None)
            self._runs[name] = signature, run
            while len(self._runs) > _LOADED_RUNS:
                del self._runs[next(iter(self._runs))]
        return run

    def sample_files(self, name: str) -> dict[str, Path]:
        """Return the Parquet files of a run's samples and transcripts: file name without suffix -> path.

        Raises:
            UnknownNameError: There is no such run.
            OutsideError: One of them is a link that leads out of the folder.
        """
        folder = self.path(name)
        self._signature(folder, folder / "samples")
        return {path.stem: path for path in sorted((folder / "samples").glob("*.parquet"))}

    def inside(self, path: Path) -> Path:
        """Return a path, with all links followed.

        Raises:
            OutsideError: It leads out of the folder.
        """
        target = path.resolve()
        if not target.is_relative_to(self.root):
            raise OutsideError(
                f"{path.relative_to(self.root)} is a link that leads out of {self.root}, and is not followed.",
                fix="Replace it by a copy.",
            )
        return target

    def _folders(self) -> dict[str, Path]:
        """Return the runs by name; a link to a folder elsewhere is none of them."""
        with os.scandir(self.root) as entries:
            paths = {entry.name: Path(entry.path) for entry in entries if entry.is_dir()}
        return {
            name: path
            for name, path in sorted(paths.items())
            if path.resolve().is_relative_to(self.root) and (path / "recipe.yaml").is_file()
        }

    def _row(self, name: str, folder: Path) -> RunRow:
        try:
            signature = self._signature(folder)
        except OutsideError as error:
            return RunRow(name=name, problem=str(error))
        with self._lock:
            stored = self._rows.get(name)
        if stored is None or stored[0] != signature:
            stored = signature, _read_row(name, folder)
            with self._lock:
                self._rows[name] = stored
        row = stored[1]
        if row.status == "finished":
            return row
        changed = max((time_ns for _, time_ns, _ in signature), default=0)
        active = time.time() - changed / 1e9 < _ACTIVE_SECONDS
        return row.model_copy(update={"status": "running" if active else "unfinished"})

    def _signature(self, folder: Path, *below: Path) -> Signature:
        """Return what identifies the content of the files that are read from a run.

        Args:
            folder: The run.
            below: Subfolders whose files are read, too.

        Raises:
            OutsideError: One of the files is a link that leads out of the folder of runs.
        """
        read = []
        # The links at the top are checked before anything below them is listed.
        for path in (folder, *below):
            for entry in _entries(path):
                if path == folder and entry.name not in (*_FILES, *_FOLDERS):
                    continue
                if entry.is_symlink():
                    self.inside(Path(entry.path))
                if (stat := _stat(entry)) is not None:
                    read.append((entry.path, stat.st_mtime_ns, stat.st_size))
        return tuple(sorted(read))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Return the entries of a folder; none if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            yield from list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a file; None if a run has replaced it since the folder was listed."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _read_row(name: str, folder: Path) -> RunRow:
    try:
        with (folder / "recipe.yaml").open(encoding="utf-8") as stream:
            recipe = yaml.load(stream, Loader=_YamlLoader)
            written = datetime.datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, datetime.UTC)
        if not isinstance(recipe, dict):
            raise DataError(f"{folder / 'recipe.yaml'} does not hold a recipe.")
        row = RunRow(name=name, created=written.isoformat(timespec="seconds"), **_settings(recipe))
        return row.model_copy(update=_results(folder))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return RunRow(name=name, problem=f"recipe.yaml is not readable YAML ({str(error).splitlines()[0]}).")
    except UserError as error:
        return RunRow(name=name, problem=str(error))


def _settings(recipe: dict[str, Any]) -> dict[str, str]:
    def section(key: str) -> dict[str, Any]:
        value = recipe.get(key)
        return value if isinstance(value, dict) else {}

    data, model = section("data"), section("model")
    return {
        "recipe": str(recipe.get("name", "")),
        "method": str(section("method").get("name", "")),
        "model": str(model.get("name") or ("trained from scratch" if model.get("scratch") else "")),
        "data": "/".join(str(part) for part in (data.get("name"), data.get("split")) if part),
    }


def _results(folder: Path) -> dict[str, Any]:
    """Return what the records at the top of a run's folder add to its row."""
    manifest, summary, battery = (folder / f"{name}.json" for name in ("manifest", "summary", "battery"))
    results: dict[str, Any] = {}
    if manifest.is_file():
        results["created"] = read_record(manifest, Manifest).created
    if battery.is_file():
        results["audits"] = read_record(battery, Battery).outcome
    if summary.is_file():
        record = read_record(summary, RunSummary)
        headlines = record.headlines.get("unlearned", {})
        results |= {
            "status": "finished",
            "verdict": record.verdict.sentence,
            "forgot": record.verdict.forgot,
            "kept": record.verdict.kept,
            "headlines": [_headline(name, value) for name, value in headlines.items()],
        }
    return results


def _headline(name: str, value: Value) -> dict[str, Any]:
    return {"title": metric_title(name, {}).capitalize(), "point": value.point, "text": format_value(value)}
