"""Checkpoint selection: measure the model after each epoch and keep the epoch that the recipe's rule selects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import Benchmark
from expunge.config.selection_rule import Rule, comparable
from expunge.console import is_main_process
from expunge.distributed import wait
from expunge.errors import IncompatibleError
from expunge.records import BenchmarkResult, Value
from expunge.rundir import replace_folder, write_atomic
from expunge.runs.context import Run
from expunge.runs.evaluator import Evaluator, result_name
from expunge.runs.models import RetainModel, rows_of
from expunge.runs.results import load_result
from expunge.training.batching import BatchPlan
from expunge.training.trainer import delete_training_state

STOPPED = "stopped.json"
"""Marker of a run whose training was stopped early: it has no checkpoint, and its last epoch is not a result."""


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of an unlearning, for whoever decides whether to stop it early."""

    folder: Path
    """The run's folder."""
    step: int
    steps: int
    """Steps of the full training."""
    results: list[BenchmarkResult]
    """All measurements so far, by step."""


StopEarly = Callable[[TrainingProgress], bool]
"""Returns after each epoch whether the training should stop."""


class Edit:
    """Schedule of a method that edits weights without training: one step, no pass over the data."""

    steps = 1

    def epoch_of(self, step: int) -> float:
        """Return 0: weight edits do not iterate over the data."""
        return 0.0

    def epoch_ends(self) -> list[int]:
        """Return the only step."""
        return [1]


class CheckpointSelector:
    """Measures the model after each epoch and saves the weights of the best epoch so far, by the recipe's rule.

    Args:
        run: The run.
        evaluator: Measures the model.
        retain_model: Measurements of the retain model; None without one.
        model: The model in training.
        plan: The schedule of the training.
        save: Saves the model to a folder.
    """

    def __init__(
        self,
        run: Run,
        evaluator: Evaluator,
        retain_model: RetainModel | None,
        model: Any,
        plan: BatchPlan | Edit,
        save: Callable[[Path], None],
    ) -> None:
        self._run, self._evaluator = run, evaluator
        self._benchmarks: Sequence[Benchmark] = run.recipe.evaluate.benchmarks
        self._rule = run.recipe.evaluate.rule
        self._retain_model, self._model, self._plan = retain_model, model, plan
        self._best = run.folder / "best"
        self._save = save

    def measure(self, step: int) -> None:
        """Measure now, unless this step's results are on disk already; save the weights if this step is the best."""
        epoch = round(self._plan.epoch_of(step), 4)
        for benchmark in self._benchmarks:
            if self._load(benchmark, step) is None:
                measured = self._evaluator.measure(self._model, benchmark, f"epoch {epoch:g}")
                self._evaluator.record(
                    measured,
                    benchmark,
                    role="unlearned",
                    model="checkpoint",
                    retain=rows_of(self._retain_model, benchmark),
                    step=step,
                    epoch=epoch,
                )
        if not self._rule.is_last and self._selected() == step:
            self._save(self._best)

    def measured(self, step: int) -> bool:
        """Return whether every benchmark was measured at a step, and its weights saved if it was the best."""
        done = all(self._load(benchmark, step) is not None for benchmark in self._benchmarks)
        return done and (self._rule.is_last or self._selected() != step)

    def results(self) -> list[BenchmarkResult]:
        """Return all measurements of the unlearned model, by step."""
        steps = sorted({*self._plan.epoch_ends(), self._plan.steps})
        results = [self._load(benchmark, step) for step in steps for benchmark in self._benchmarks]
        return [result for result in results if result is not None]

    def progress(self, step: int) -> TrainingProgress:
        """Return the progress after a step, for whoever decides whether to stop early."""
        return TrainingProgress(self._run.folder.path, step, self._plan.steps, self.results())

    def abandon(self) -> None:
        """Mark a run that was stopped early and delete its weights; the measurements stay."""
        if is_main_process():
            last = max((result.step for result in self.results()), default=0)
            write_atomic(self._run.folder / STOPPED, json.dumps({"step": last, "steps": self._plan.steps}))
            shutil.rmtree(self._best, ignore_errors=True)
            delete_training_state(self._run.folder.path)
        wait()

    def finish(self) -> None:
        """Move the selected weights into `checkpoint/`."""
        checkpoint = self._run.folder / "checkpoint"
        step = self._selected()
        if step is None or step == self._plan.steps:
            self._save(checkpoint)
        elif is_main_process() and self._best.is_dir():
            replace_folder(self._best, checkpoint)
        wait()
        if is_main_process():
            shutil.rmtree(self._best, ignore_errors=True)
            (self._run.folder / STOPPED).unlink(missing_ok=True)

    def _load(self, benchmark: Benchmark, step: int) -> BenchmarkResult | None:
        return load_result(self._run.folder.path, result_name("unlearned", benchmark, step))

    def _selected(self) -> int | None:
        return selected_step(self.results(), self._rule)


def selected_step(results: Sequence[BenchmarkResult], rule: Rule) -> int | None:
    """Return the step that a rule selects; None without results.

    Args:
        results: Measurements of the unlearned model by all benchmarks and steps.
        rule: The recipe's rule.

    Raises:
        IncompatibleError: The rule needs a headline that no measurement has.
    """
    steps = sorted({result.step for result in results})
    candidates = headlines_by_step(results)
    index = rule.choose(candidates)
    if index is None and steps:
        absent = next(name for name in rule.needs if not any(comparable(values, name) for values in candidates))
        value = candidates[-1].get(absent)
        reason = "no benchmark reports it" if value is None else f"it needs {value.needs}"
        raise IncompatibleError(
            f"evaluate.select is '{rule.text}', but {absent} cannot be compared: {reason}.",
            fix="Supply what is missing, or set evaluate.select=last.",
        )
    return None if index is None else steps[index]


def headlines_by_step(results: Sequence[BenchmarkResult]) -> list[dict[str, Value]]:
    """Merge the headlines of all benchmarks per step, in order of steps; the first benchmark with a name gives it."""
    merged: dict[int, dict[str, Value]] = {}
    for result in results:
        values = merged.setdefault(result.step, {})
        merged[result.step] = {**result.headlines, **values}
    return [merged[step] for step in sorted(merged)]
