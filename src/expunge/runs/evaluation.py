"""Runs a benchmark's plan on a model and turns what the probes return into a result; nothing is run twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.benchmarks._base import Benchmark, Plan, SampleRow
from expunge.console import is_main_process, note
from expunge.data.sets import Sets
from expunge.data.templates import Encoded, Template
from expunge.modeling.distributed import agreed, sharded, wait
from expunge.modeling.load import context_length, model_hash, pad_id_of
from expunge.modeling.reference import causal_lm
from expunge.probes.generation import generate
from expunge.probes.scoring import score
from expunge.records import BenchmarkResult
from expunge.rundir import fingerprint, read_record, write_atomic, write_record


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
    """

    sets: Sets
    template: Template
    batch_tokens: int
    cache: Path | None = None
    dtype: torch.dtype = torch.float32

    def measure(self, model: Any, benchmark: Benchmark, label: str) -> Measured:
        """Per-sample records of a model, from the cache where exactly this was measured before."""
        weights = model_hash(model)
        plan = benchmark.plan(self.sets)
        settings = self._settings(benchmark, model, plan)
        name = fingerprint([weights, settings, {key: rows.hash for key, rows in plan.sets.items()}])
        place = self.cache / f"{benchmark.name}-{name}.parquet" if self.cache else None
        started = time.monotonic()
        if place is not None and agreed(place.is_file()):
            rows = read_rows(place)
        else:
            device = next(model.parameters()).device.type
            with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
                rows = self._run(model, benchmark, plan, label)
            if place is not None and is_main_process():
                write_rows(place, rows)
            wait()
        return Measured(rows, settings, weights, time.monotonic() - started)

    def _run(self, model: Any, benchmark: Benchmark, plan: Plan, label: str) -> list[SampleRow]:
        pad_id, limit = pad_id_of(self.template.tokenizer), context_length(causal_lm(model).config)
        encoded: list[Encoded] = [
            self.template.encode(item.question, item.answer, f"{item.set}/{item.index} {item.what}")
            for item in plan.score
        ]
        fitting = [i for i, item in enumerate(encoded) if len(item.ids) <= limit]
        logps = sharded(
            lambda part: score(
                causal_lm(model),
                part,
                pad_id=pad_id,
                batch_tokens=self.batch_tokens,
                title=f"Scoring {label}",
            ),
            [encoded[i] for i in fitting],
        )
        scores = {
            (plan.score[i].set, plan.score[i].index, plan.score[i].what): logp.tolist()
            for i, logp in zip(fitting, logps, strict=True)
        }
        return benchmark.rows(plan, scores, self._generate(model, plan, label, pad_id))

    def _generate(self, model: Any, plan: Plan, label: str, pad_id: int) -> dict[tuple[str, int], str]:
        eos_ids = end_ids(causal_lm(model), self.template.tokenizer)
        prompts = [(self.template.prompt_ids(item.question), item.max_new_tokens) for item in plan.generate]
        answers = sharded(
            lambda part: generate(
                causal_lm(model),
                [ids for ids, _ in part],
                max_new_tokens=[budget for _, budget in part],
                eos_ids=eos_ids,
                pad_id=pad_id,
                batch_tokens=2 * self.batch_tokens,
                title=f"Generating {label}",
            ),
            prompts,
        )
        return {
            (item.set, item.index): self.template.decode(answer)
            for item, answer in zip(plan.generate, answers, strict=True)
            if answer is not None
        }

    def _settings(self, benchmark: Benchmark, model: Any, plan: Plan) -> dict[str, Any]:
        config = causal_lm(model).config
        return {
            **benchmark.spec(),
            "split": self.sets.name,
            "prompt": self.template.fingerprint,
            "architecture": config.model_type,
            "vocab": config.vocab_size,
            "dtype": str(self.dtype),
            "rows": {name: len(rows) for name, rows in plan.sets.items()},
        }


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
    extra = getattr(model.generation_config, "eos_token_id", None)
    return sorted({tokenizer.eos_token_id, *(extra if isinstance(extra, list) else [extra] if extra else [])})


def make_result(
    benchmark: Benchmark,
    measured: Measured,
    *,
    role: str,
    model: str,
    reference: Sequence[SampleRow] | None,
    resamples: int,
    seed: int,
    step: int = 0,
    epoch: float = 0.0,
    samples: str = "",
) -> BenchmarkResult:
    """Headlines and metrics of measured rows, with intervals."""
    numbers = benchmark.headlines(measured.rows, reference, resamples=resamples, seed=seed)
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
    return read_record(path, BenchmarkResult) if agreed(path.is_file()) else None


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


def _plain(row: SampleRow) -> SampleRow:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
