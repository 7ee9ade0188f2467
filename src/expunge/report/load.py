"""Read a run folder into records, without models or torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from expunge import strict_yaml
from expunge.errors import DataError, nearest
from expunge.reading import read_bytes, read_parquet
from expunge.records import AuditResult, Battery, BenchmarkResult, Manifest, RunSummary, Stage, TrainPoint
from expunge.rundir import RunDir, read_record

ROLES = ("target", "unlearned", "retain")
"""The models of a run, in the order in which a reader meets them."""


@dataclass(frozen=True)
class LoadedRun:
    """Records that a run has written so far."""

    folder: Path
    recipe: dict[str, Any]
    """The resolved recipe, as plain data."""
    manifest: Manifest | None
    summary: RunSummary | None
    """None while the run is unfinished."""
    train: list[TrainPoint] = field(default_factory=list)
    results: dict[str, list[BenchmarkResult]] = field(default_factory=dict)
    """Role -> its results, sorted by step."""
    audits: list[AuditResult] = field(default_factory=list)
    """Results of attacks on the finished model."""
    battery: Battery | None = None
    """Verdict of the attacks of the last command; None without any."""

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return str(self.recipe.get("name") or self.folder.name)

    def benchmarks(self) -> list[str]:
        """Return the benchmarks with a result, in the recipe's order."""
        measured = {result.benchmark for results in self.results.values() for result in results}
        entries = self.recipe.get("evaluate", {}).get("benchmarks") or []
        names = [str(entry.get("name")) if isinstance(entry, dict) else str(entry) for entry in entries]
        keys = [Path(name).stem if name.endswith(".py") else name for name in names]
        return [key for key in keys if key in measured] + sorted(measured - set(keys))

    def title(self, benchmark: str) -> str:
        """Return a benchmark's name in texts."""
        titles = (
            result.title for results in self.results.values() for result in results if result.benchmark == benchmark
        )
        return next(filter(None, titles), benchmark)

    def trajectory(self, benchmark: str) -> list[BenchmarkResult]:
        """Return the results of the unlearned model, by step."""
        return [result for result in self.results.get("unlearned", []) if result.benchmark == benchmark]

    def result(self, role: str, benchmark: str) -> BenchmarkResult | None:
        """Return the result of a role; for the unlearned model the one of the selected step, else the last."""
        results = [result for result in self.results.get(role, []) if result.benchmark == benchmark]
        if role == "unlearned" and self.summary is not None:
            selected = [result for result in results if result.step == self.summary.selected_step]
            results = selected or results
        return results[-1] if results else None

    def samples(self, result: BenchmarkResult | None) -> list[dict[str, Any]]:
        """Return the per-sample rows of a result; empty where the run stored none.

        Raises:
            DataError: The file is damaged, or its path leads out of the run folder.
        """
        return [] if result is None else read_samples(self.folder, result.samples)

    def missing(self) -> list[str]:
        """Return the parts of the run that are missing, in plain words."""
        gaps = []
        if self.manifest is None:
            gaps.append("the manifest (manifest.json)")
        if self.recipe.get("train") and not self.train:
            gaps.append("the unlearning (train.jsonl has no steps)")
        if not self.results.get("target") and self.recipe.get("evaluate", {}).get("before", True):
            gaps.append("the evaluation of the target")
        wants_retain_model = self.recipe.get("retain_model") or self.recipe.get("model", {}).get("retain_model")
        if wants_retain_model and not self.results.get("retain"):
            gaps.append("the evaluation of the retain model")
        if not self.results.get("unlearned"):
            gaps.append("the evaluation of the unlearned model")
        if self.summary is None:
            gaps.append("the summary (summary.json), written last")
        return gaps


def load_run(folder: Path) -> LoadedRun:
    """Read a run folder, finished or not.

    Raises:
        DataError: The folder is not a run, or one of its records is damaged.
    """
    folder = Path(folder)
    recipe = _read_recipe(folder)
    for path in sorted((folder / "stages").glob("*.json")):
        read_record(path, Stage)  # Raises for a folder of another version, also when it has no results yet.
    results: dict[str, list[BenchmarkResult]] = {}
    for path in sorted((folder / "results").glob("*.json")):
        result = read_record(path, BenchmarkResult)
        results.setdefault(result.role, []).append(result)
    for found in results.values():
        found.sort(key=lambda result: (result.benchmark, result.step))
    manifest, summary = folder / "manifest.json", folder / "summary.json"
    audits, battery = load_audits(folder)
    return LoadedRun(
        folder=folder,
        recipe=recipe,
        manifest=read_record(manifest, Manifest) if manifest.is_file() else None,
        summary=read_record(summary, RunSummary) if summary.is_file() else None,
        train=_read_train(folder / "train.jsonl"),
        results=results,
        audits=audits,
        battery=battery,
    )


def read_samples(folder: Path, samples: str) -> list[dict[str, Any]]:
    """Return per-sample rows from a Parquet file of a folder; empty without a file.

    Raises:
        DataError: The file is damaged, or its path leads out of the folder.
    """
    if not samples:
        return []
    try:
        path = RunDir(folder) / samples
    except ValueError as error:
        raise DataError(f"{folder}: {error}.", fix="Such a path is never followed.") from error
    if not path.is_file():
        return []
    return read_parquet(path)


def load_audits(folder: Path) -> tuple[list[AuditResult], Battery | None]:
    """Read the records of the audits in a folder: single audits, and the verdict of those run together.

    Raises:
        DataError: A record is damaged.
    """
    battery = folder / "battery.json"
    return (
        [read_record(path, AuditResult) for path in sorted((folder / "audits").glob("*.json"))],
        read_record(battery, Battery) if battery.is_file() else None,
    )


def _read_recipe(folder: Path) -> dict[str, Any]:
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise _not_a_run(folder)
    try:
        recipe = strict_yaml.read(path)
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not readable YAML ({strict_yaml.explain(error)}).") from error
    if not isinstance(recipe, dict):
        raise DataError(f"{path} does not hold a recipe: expected a mapping of settings.")
    for section in ("model", "data", "method", "evaluate"):
        if not isinstance(recipe.get(section, {}), dict):
            raise DataError(f"{path}: {section} is not a section of settings.", fix="Run the recipe again.")
    return recipe


def _not_a_run(folder: Path) -> DataError:
    if not folder.is_dir():
        what = "is a file, not a run folder" if folder.exists() else "does not exist"
        parent = folder.parent
        near = ""
        if parent.is_dir():
            runs = [path.parent.name for path in parent.glob("*/recipe.yaml")]
            near = nearest(folder.name, runs) if runs else ""
        return DataError(f"{folder} {what}.", allowed=near, fix="Give the folder that `expunge run` printed.")
    inside = sorted(path.parent.name for path in folder.glob("*/recipe.yaml"))
    if inside:
        listing = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
        return DataError(
            f"{folder} is not a run folder, it holds run folders: {listing}.", fix="Name one or more of them."
        )
    return DataError(
        f"{folder} is not a run folder: it has no recipe.yaml.",
        fix="Give the folder that `expunge run` printed.",
    )


def _read_train(path: Path) -> list[TrainPoint]:
    if not path.is_file():
        return []
    points = []
    lines = read_bytes(path).decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            points.append(TrainPoint.model_validate_json(line))
        except ValidationError as error:
            # A run that was killed while writing leaves a partial last line; all lines before it are complete.
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: not a training step.", fix="Run the recipe again.") from error
    return points
