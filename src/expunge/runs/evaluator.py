"""Measure models with benchmarks and record the results; nothing is measured twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.benchmarks.base import Benchmark, Plan, SampleRow
from expunge.benchmarks.shared.row_metrics import row_metric_labels, row_metrics
from expunge.config.recipe import Measure
from expunge.console import is_main_process, note
from expunge.data.sets import Sets
from expunge.data.templates import Template
from expunge.distributed import broadcast_from_main, wait
from expunge.modeling.adapters import causal_lm
from expunge.modeling.load import context_length, model_hash
from expunge.modeling.opening import check_same_settings, comparable_facts
from expunge.probes.cache import ProbeCache
from expunge.probes.session import Session, end_ids
from expunge.probes.vllm_engine import VllmEngine
from expunge.records import BenchmarkResult
from expunge.rundir import fingerprint
from expunge.runs.results import read_rows, save_result, without_text, write_rows


@dataclass(frozen=True)
class Measured:
    """Per-sample rows of one benchmark on one model, and what identifies them."""

    rows: list[SampleRow]
    settings: dict[str, Any]
    model_hash: str
    seconds: float


@dataclass(frozen=True)
class Evaluator:
    """Measures models on the same sets with the same prompts, and caches the per-sample rows.

    Args:
        sets: Data that benchmarks may use.
        template: Turns questions into tokens.
        config: Batch size, engine and number of bootstrap resamples.
        seed: Seed of bootstrap intervals.
        cache: Folder of per-sample rows, named by everything that can change them; None for no cache.
        dtype: Precision of forward passes: a model in training keeps float32 weights, but is measured as it will be
            used.
        folder: Folder in which results are recorded; None records nothing.
    """

    sets: Sets
    template: Template
    config: Measure
    seed: int = 0
    cache: Path | None = None
    dtype: torch.dtype = torch.float32
    folder: Path | None = None

    def session(self, model: Any, label: str, attack: Any = None) -> Session:
        """Return a session for `model`, with results cached by weight hash.

        Args:
            model: The model.
            label: Name of the model in progress bars.
            attack: JSON-serialisable values that identify hooks on the model, which change results but not weights.
        """
        bare = causal_lm(model)
        facts: list[Any] = [model_hash(model), str(self.dtype), end_ids(bare, self.template)]
        if attack is not None:
            facts.append({"attack": attack})
        engine = None
        if self.config.engine == "vllm":
            facts.append(self.config.engine)
            dtype = str(self.dtype).removeprefix("torch.")
            engine = VllmEngine(bare.config.name_or_path, dtype, context_length(bare.config))
        folder = self.cache / "probes" if self.cache is not None and not self.sets.sensitive else None
        return Session(
            model, self.sets, self.template, self.config.batch_tokens, ProbeCache(folder, facts), label, engine
        )

    def measure(self, model: Any, benchmark: Benchmark, label: str) -> Measured:
        """Return the per-sample rows of a model, from the cache if the same measurement was made before."""
        weights = model_hash(model)
        plan = benchmark.plan(self.sets)
        settings = self._settings(benchmark, model, plan)
        name = fingerprint([weights, settings, {key: rows.hash for key, rows in plan.sets.items()}])
        path = self.cache / f"{benchmark.key}-{name}.parquet" if self.cache else None
        started = time.monotonic()
        if path is not None and broadcast_from_main(path.is_file()):
            rows = read_rows(path)
        else:
            device = next(model.parameters()).device.type
            with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
                rows = benchmark.run(self.session(model, label), plan)
            if self.sets.sensitive:
                rows = [without_text(row) for row in rows]
            if path is not None and is_main_process():
                write_rows(path, rows)
            wait()
        return Measured(rows, settings, weights, time.monotonic() - started)

    def record(
        self,
        measured: Measured,
        benchmark: Benchmark,
        *,
        role: str,
        model: str,
        retain: Measured | None,
        step: int = 0,
        epoch: float = 0.0,
    ) -> BenchmarkResult:
        """Compute headlines and metrics of a measurement, write the result and print its headlines.

        Args:
            measured: What `measure` returned.
            benchmark: The benchmark that was measured.
            role: 'target', 'retain', 'unlearned', or 'model' outside a run.
            model: Name or path of the model.
            retain: The same measurement of the retain model; None without one.
            step: Optimiser steps of the unlearning so far.
            epoch: Passes over the forget set so far.

        Raises:
            IncompatibleError: The retain model was measured on other rows or in another way.
            DataError: A metric of `evaluate.metrics` cannot be computed from the rows.
        """
        if retain is not None and retain is not measured:
            # Each benchmark compares the rows, and whatever else identifies its data.
            check_same_settings({**measured.settings, "split": None}, retain.settings)
            benchmark.check_retain_model(measured.rows, retain.rows, measured.settings, retain.settings)
        numbers = benchmark.headlines(
            measured.rows, None if retain is None else retain.rows, resamples=self.config.bootstrap, seed=self.seed
        )
        extra = row_metrics(
            self.config.metrics,
            benchmark,
            measured.rows,
            numbers.metrics,
            withheld=self.sets.sensitive,
            resamples=self.config.bootstrap,
            seed=self.seed,
        )
        result = BenchmarkResult(
            benchmark=benchmark.key,
            title=benchmark.title or benchmark.name,
            role=role,
            model=model,
            model_hash=measured.model_hash,
            step=step,
            epoch=epoch,
            headlines=numbers.headlines,
            metrics={**numbers.metrics, **extra},
            labels={**row_metric_labels(self.config.metrics), **benchmark.metric_labels(), **benchmark.labels()},
            axes=benchmark.axes(),
            sections=list(benchmark.sections()),
            settings=measured.settings,
            seconds=round(measured.seconds, 3),
        )
        if self.folder is not None:
            result = save_result(self.folder, result_name(role, benchmark, step), result, measured.rows)
        print_headlines(result)
        return result

    def _settings(self, benchmark: Benchmark, model: Any, plan: Plan) -> dict[str, Any]:
        config = causal_lm(model).config
        return {
            **benchmark.measured_settings(),
            **plan.facts,
            "split": self.sets.name,
            **comparable_facts(self.template, config),
            "dtype": str(self.dtype),
            **({} if self.config.engine == "torch" else {"engine": self.config.engine}),
            "rows": {name: len(rows) for name, rows in plan.sets.items()},
        }


def stored_measurement(benchmark: Benchmark, path: Path, facts: Mapping[str, Any]) -> Measured:
    """Return the rows of a stored evaluation.

    Args:
        benchmark: The benchmark that was measured.
        path: The stored evaluation.
        facts: Those of the model that it will be compared with (`comparable_facts`).

    Raises:
        DataError: The benchmark reads no stored evaluations, or the file is not one.
        IncompatibleError: It was measured with another prompt, tokenizer or model family.
    """
    rows, settings = benchmark.read_stored(path)
    check_same_settings(facts, settings)
    return Measured(rows, settings, model_hash="", seconds=0.0)


def result_name(role: str, benchmark: Benchmark, step: int = 0) -> str:
    """Return the name of a result's file, such as 'unlearned-tofu-000125'."""
    return f"{role}-{benchmark.key}-{step:06d}" if role == "unlearned" else f"{role}-{benchmark.key}"


def print_headlines(result: BenchmarkResult) -> None:
    """Print a line with a result's headlines."""
    parts = [
        f"{name} {value.point:.4g}" if value.point is not None else f"{name} needs {value.needs}"
        for name, value in result.headlines.items()
    ]
    label = f"Epoch {result.epoch:g}" if result.role == "unlearned" else result.role.capitalize()
    note(f"{label}: {', '.join(parts)}")
