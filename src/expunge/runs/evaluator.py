"""Runs a benchmark's plan on a model and turns what the probes return into a result; nothing is run twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.benchmarks.base import Benchmark, Plan, SampleRow
from expunge.console import is_main_process, note
from expunge.data.sets import Sets
from expunge.data.templates import Template
from expunge.distributed import broadcast_from_main, wait
from expunge.modeling.adapters import causal_lm
from expunge.modeling.load import context_length, model_hash
from expunge.probes.cache import ProbeCache
from expunge.probes.session import Session, end_ids
from expunge.probes.vllm_engine import VllmEngine
from expunge.records import BenchmarkResult
from expunge.rundir import fingerprint, read_record, write_atomic, write_record

WITHHELD = "(withheld as sensitive)"


@dataclass(frozen=True)
class Measured:
    """Per-sample records of one benchmark on one model, and what identifies them."""

    rows: list[SampleRow]
    settings: dict[str, Any]
    model_hash: str
    seconds: float


@dataclass(frozen=True)
class Evaluator:
    """Measures models on the same sets with the same prompts, and remembers what it measured.

    Args:
        sets: What benchmarks may use.
        template: How questions become tokens.
        batch_tokens: Padded tokens per forward pass.
        cache: Folder of per-sample records, named by everything that can change them; None for no memory.
        dtype: Precision of the forward passes: a model in training keeps float32 weights, but is measured as it
            will be used.
        engine: 'torch', or 'vllm' for models that were loaded from a folder or the hub.
    """

    sets: Sets
    template: Template
    batch_tokens: int
    cache: Path | None = None
    dtype: torch.dtype = torch.float32
    engine: str = "torch"

    def session(self, model: Any, label: str) -> Session:
        """The model, ready to be asked; what anyone asked before, of equal weights, is remembered."""
        inner = causal_lm(model)
        facts = [model_hash(model), str(self.dtype), end_ids(inner, self.template.tokenizer)]
        engine = None
        if self.engine == "vllm":
            facts.append(self.engine)
            dtype = str(self.dtype).removeprefix("torch.")
            engine = VllmEngine(inner.config.name_or_path, dtype, context_length(inner.config))
        folder = self.cache / "probes" if self.cache is not None and not self.sets.sensitive else None
        return Session(model, self.sets, self.template, self.batch_tokens, ProbeCache(folder, facts), label, engine)

    def measure(self, model: Any, benchmark: Benchmark, label: str) -> Measured:
        """Per-sample records of a model, from the cache where exactly this was measured before."""
        weights = model_hash(model)
        plan = benchmark.plan(self.sets)
        settings = self._settings(benchmark, model, plan)
        name = fingerprint([weights, settings, {key: rows.hash for key, rows in plan.sets.items()}])
        place = self.cache / f"{benchmark.name}-{name}.parquet" if self.cache else None
        started = time.monotonic()
        if place is not None and broadcast_from_main(place.is_file()):
            rows = read_rows(place)
        else:
            device = next(model.parameters()).device.type
            with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
                rows = benchmark.run(self.session(model, label), plan)
            if self.sets.sensitive:
                rows = [without_text(row) for row in rows]
            if place is not None and is_main_process():
                write_rows(place, rows)
            wait()
        return Measured(rows, settings, weights, time.monotonic() - started)

    def _settings(self, benchmark: Benchmark, model: Any, plan: Plan) -> dict[str, Any]:
        config = causal_lm(model).config
        return {
            **benchmark.spec(),
            **plan.facts,
            "split": self.sets.name,
            "prompt": self.template.fingerprint,
            "architecture": config.model_type,
            "vocab": config.vocab_size,
            "dtype": str(self.dtype),
            **({} if self.engine == "torch" else {"engine": self.engine}),
            "rows": {name: len(rows) for name, rows in plan.sets.items()},
        }


def make_result(
    benchmark: Benchmark,
    measured: Measured,
    *,
    role: str,
    model: str,
    retain_model: Sequence[SampleRow] | None,
    resamples: int,
    seed: int,
    step: int = 0,
    epoch: float = 0.0,
    samples: str = "",
) -> BenchmarkResult:
    """Headlines and metrics of measured rows, with intervals."""
    numbers = benchmark.headlines(measured.rows, retain_model, resamples=resamples, seed=seed)
    return BenchmarkResult(
        benchmark=benchmark.name,
        role=role,
        model=model,
        model_hash=measured.model_hash,
        step=step,
        epoch=epoch,
        headlines=numbers.headlines,
        metrics=numbers.metrics,
        settings=measured.settings,
        samples=samples,
        seconds=round(measured.seconds, 3),
    )


def store(folder: Path, name: str, result: BenchmarkResult, rows: Sequence[SampleRow]) -> BenchmarkResult:
    """Write a result and its per-sample records into a run folder; the result last."""
    samples = f"samples/{name}.parquet"
    result = result.model_copy(update={"samples": samples})
    if is_main_process():
        write_rows(folder / samples, rows)
        write_record(folder / f"results/{name}.json", result)
    wait()
    return result


def stored(folder: Path, name: str) -> BenchmarkResult | None:
    """A result written earlier, else None."""
    path = folder / f"results/{name}.json"
    return read_record(path, BenchmarkResult) if broadcast_from_main(path.is_file()) else None


def write_rows(path: Path, rows: Sequence[SampleRow]) -> None:
    """Write per-sample records as Parquet, atomically."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_plain(row) for row in rows]), buffer)
    write_atomic(path, buffer.getvalue())


def read_rows(path: Path) -> list[SampleRow]:
    """Read per-sample records."""
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def say(result: BenchmarkResult, label: str) -> None:
    """One line with a result's headlines."""
    parts = [
        f"{name} {value.point:.4g}" if value.point is not None else f"{name} needs {value.needs}"
        for name, value in result.headlines.items()
    ]
    note(f"{label}: {', '.join(parts)}")


def without_text(row: SampleRow) -> SampleRow:
    """A record whose texts are replaced by their hashes, by which rows can still be told apart and matched."""

    def hidden(value: Any) -> Any:
        if isinstance(value, list):
            return [hidden(item) for item in value]
        return f"{WITHHELD} {fingerprint(value)}" if isinstance(value, str) else value

    return {key: value if key in {"set", "id", "group"} else hidden(value) for key, value in row.items()}


def _plain(row: SampleRow) -> SampleRow:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
