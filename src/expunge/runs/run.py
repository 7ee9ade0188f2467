"""A run from recipe to report: prepare, target, retain model, unlearn, report."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from expunge import distributed
from expunge.benchmarks.base import Benchmark
from expunge.checks.settings import check_settings
from expunge.config.load import load_recipe
from expunge.config.recipe import Recipe
from expunge.console import interruptible, is_main_process, note
from expunge.data.sets import data_hashes, num_rows
from expunge.locking import locked
from expunge.modeling.peak_memory import peak_bytes, reset_peak
from expunge.records import BenchmarkResult, Judgement, Manifest, RunSummary, Stage, Value
from expunge.report.card import write_card
from expunge.report.html import write_report
from expunge.report.load import load_run
from expunge.rundir import LOCK, read_record, write_atomic, write_record
from expunge.runs.checkpoints import StopEarly, headlines_by_step, selected_step
from expunge.runs.context import Run, prepare
from expunge.runs.evaluator import Evaluator, result_name
from expunge.runs.models import RetainModel, evaluate_retain_model, evaluate_target, target_path
from expunge.runs.results import load_measurement, load_result
from expunge.runs.unlearning import unlearn
from expunge.runs.verdict import combine

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
)


def run(recipe: Recipe | str | Path, overrides: Sequence[str] = (), *, runs: str | Path = "runs") -> RunSummary:
    """Unlearn, measure what is left, and write the report.

    Everything goes into `runs/<recipe>-<fingerprint>/`. Stages that are already there with the same inputs are
    skipped; an interrupted training continues from its last saved state.

    Args:
        recipe: A recipe, the name of a packaged one, or the path of a YAML file.
        overrides: Settings as 'key.path=value', on top of a named recipe or file.
        runs: Folder of all runs.

    Returns:
        The verdict, the headlines of target, retain model and unlearned model, and the folder.

    Raises:
        UserError: The recipe, the data or the models cannot be used; the message states what to change.
        Interrupted: Ctrl-C was pressed; the same call continues.
    """
    return execute(recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides), Path(runs))


def execute(
    recipe: Recipe, runs: Path, stop_early: StopEarly | None = None, weights: bool = True, wait: bool = False
) -> RunSummary:
    """Run a recipe like `run`, but let `stop_early` stop the training after any epoch.

    Args:
        recipe: What to run.
        runs: Folder of all runs.
        stop_early: Called after each epoch but the last; True ends the training there.
        weights: Recreate the checkpoint of a complete run if it was deleted; otherwise its records are enough.
        wait: Wait while another process runs the same recipe, instead of raising.

    Raises:
        UserError: Another process runs the same recipe.
        StoppedEarly: `stop_early` returned True. Measurements stay; the run is marked as stopped and has no summary.
    """
    check_settings(recipe).raise_failed()
    distributed.start()
    with interruptible():
        context = prepare(recipe, runs)
        with locked(context.folder / LOCK, f"the run folder {context.folder.path}", wait=wait):
            return _resume(context, stop_early, weights)


def _resume(context: Run, stop_early: StopEarly | None, weights: bool) -> RunSummary:
    """Run the stages that are not finished."""
    if distributed.broadcast_from_main(weights and not (context.folder / "checkpoint").is_dir()):
        for stage in ("unlearn", "report"):
            (context.folder / f"stages/{stage}.json").unlink(missing_ok=True)
    done = context.folder.finished("report", context.fingerprint)
    if distributed.broadcast_from_main(done is not None and (context.folder / "report.html").is_file()):
        note(f"Nothing to do: {context.folder.path} is complete.")
        return read_record(context.folder / "summary.json", RunSummary)
    return _Stages(context, stop_early).all()


def prepare_shared(recipe: Recipe, runs: Path) -> None:
    """Create and measure what several runs share: data, target and retain model; no unlearning."""
    check_settings(recipe).raise_failed()
    with interruptible():
        context = prepare(recipe, runs)
        with locked(context.folder / LOCK, f"the run folder {context.folder.path}"):
            _Stages(context, None).before()


class _Stages:
    """The stages of one run, each timed and recorded."""

    def __init__(self, run: Run, stop_early: StopEarly | None) -> None:
        self.run, self.recipe, self.folder, self.stop_early = run, run.recipe, run.folder, stop_early
        self.evaluator = Evaluator(
            run.sets,
            run.template,
            run.recipe.evaluate,
            seed=run.recipe.seed,
            cache=run.shared / "evaluations",
            dtype=getattr(torch, run.recipe.model.dtype),
            folder=run.folder.path,
        )
        self.benchmarks: Sequence[Benchmark] = run.recipe.evaluate.benchmarks
        self.started = time.monotonic()
        self.stages: list[Stage] = []
        reset_peak()

    def all(self) -> RunSummary:
        target, retain_model = self.before()
        results = self._unlearn(target, retain_model)
        return self._report(target, retain_model, results)

    def before(self) -> tuple[str, RetainModel | None]:
        """Create and measure the target and the retain model."""
        note(f"Run folder: {self.folder.path}")
        if is_main_process():
            write_atomic(self.folder / "recipe.yaml", yaml.safe_dump(self.recipe.resolved(), sort_keys=False))
        self._finish("prepare", {"rows": num_rows(self.run.sets)})
        target = target_path(self.run)
        self._finish("target", {"model": target})
        retain_model = evaluate_retain_model(self.run, self.evaluator, self.benchmarks)
        self._finish("retain", {"model": retain_model.name if retain_model else ""})
        if self.recipe.evaluate.before:
            evaluate_target(self.run, self.evaluator, self.benchmarks, target, retain_model)
            self._finish("evaluate-target", {})
        return target, retain_model

    def _unlearn(self, target: str, retain_model: RetainModel | None) -> list[BenchmarkResult]:
        done = distributed.broadcast_from_main(self.folder.finished("unlearn", self.run.fingerprint))
        if done is not None:
            self.stages.append(done)
            names = [
                result_name("unlearned", b, step) for step in done.output["measured_steps"] for b in self.benchmarks
            ]
            return [result for name in names if (result := load_result(self.folder.path, name)) is not None]
        results = unlearn(self.run, self.evaluator, target, retain_model, self.stop_early)
        self._finish("unlearn", {"measured_steps": sorted({result.step for result in results})})
        return results

    def _report(self, target: str, retain_model: RetainModel | None, results: list[BenchmarkResult]) -> RunSummary:
        rule = self.recipe.evaluate.rule
        step = selected_step(results, rule)
        selected = [result for result in results if result.step == step]
        summary = RunSummary(
            recipe=self.recipe.name,
            folder=str(self.folder.path),
            verdict=combine(self._judgements(selected)),
            selected_step=step or 0,
            selected_epoch=selected[0].epoch if selected else 0.0,
            selection_rule=rule.words_as_applied(headlines_by_step(results), "epoch"),
            headlines={role: values for role, values in self._headlines(selected).items() if values},
            published={name: item.model_dump() for name, item in self.recipe.published.items()},
        )
        if is_main_process():
            write_record(self.folder / "manifest.json", self._manifest(target, retain_model))
            write_record(self.folder / "summary.json", summary)
            write_report([self.folder.path])
            write_card(self.folder / "checkpoint", load_run(self.folder.path))
            self._finish("report", {})
        distributed.wait()
        return summary

    def _judgements(self, selected: Sequence[BenchmarkResult]) -> list[Judgement]:
        """Ask each benchmark that measured the unlearned model for its judgement."""
        folder = self.folder.path
        after = {result.benchmark: result for result in selected}
        judgements = []
        for benchmark in self.benchmarks:
            unlearned = load_measurement(folder, after.get(benchmark.key))
            if unlearned is not None:
                target, retain = (
                    load_measurement(folder, load_result(folder, result_name(role, benchmark)))
                    for role in ("target", "retain")
                )
                judgements.append(benchmark.judge(target, unlearned, retain, seed=self.recipe.seed))
        return judgements

    def _headlines(self, selected: Sequence[BenchmarkResult]) -> dict[str, dict[str, Value]]:
        """Merge the headlines of all benchmarks: role -> headline -> value."""
        results: dict[str, list[BenchmarkResult | None]] = {
            role: [load_result(self.folder.path, result_name(role, benchmark)) for benchmark in self.benchmarks]
            for role in ("target", "retain")
        }
        results["unlearned"] = list(selected)
        return {
            role: {name: value for result in reversed(found) if result for name, value in result.headlines.items()}
            for role, found in results.items()
        }

    def _finish(self, name: str, output: dict[str, Any]) -> None:
        old = self.folder.finished(name, self.run.fingerprint)
        now = time.monotonic()
        stage = old or Stage(
            name=name,
            fingerprint=self.run.fingerprint,
            output=output,
            seconds=round(now - self.started, 3),
            peak_bytes=peak_bytes(),
        )
        self.started = now
        reset_peak()
        if old is None and is_main_process():
            self.folder.finish(stage)
        self.stages.append(stage)

    def _manifest(self, target: str, retain_model: RetainModel | None) -> Manifest:
        parts = {
            "unlearn": self.recipe.train,
            "target": self.recipe.target,
            "retain": self.recipe.retain_model,
        }
        return Manifest(
            recipe=self.recipe.name,
            fingerprint=self.run.fingerprint,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            expunge=_version("expunge"),
            packages={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            git_commit=_git_commit(),
            hardware=hardware(),
            seed=self.recipe.seed,
            data_hashes=data_hashes(self.run.sets),
            num_rows=num_rows(self.run.sets),
            models={"target": target, "retain": (retain_model.name if retain_model else "") or ""},
            effective_batch={name: part.batch_size for name, part in parts.items() if part is not None},
            stages=self.stages,
            overlap=self.run.overlap,
        )


def hardware() -> dict[str, Any]:
    """Return facts about the machine."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpus"] = torch.cuda.device_count()
    return facts


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Return the commit of the checkout that this package runs from; empty for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
