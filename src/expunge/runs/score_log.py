"""Scores stored TOFU evaluations without any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from expunge.benchmarks._tofu_logs import read_tofu_log, score_stored
from expunge.benchmarks._tofu_rows import in_set
from expunge.benchmarks.tofu import Tofu
from expunge.config.load import parse_member
from expunge.data.tofu import NUM_ROWS
from expunge.errors import ConfigError, IncompatibleError, nearest
from expunge.records import BenchmarkResult

SPLITS = ("forget01", "forget05", "forget10")


def score_log(
    log: str | Path,
    reference: str | Path | None = None,
    *,
    split: str | None = None,
    settings: Mapping[str, Any] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> BenchmarkResult:
    """Forget quality and model utility of a stored TOFU evaluation.

    Args:
        log: A TOFU log, an OpenUnlearning TOFU_EVAL.json, or a result of this project (results/*.json).
        reference: The same of the retain-only model; without it forget quality says what it needs.
        split: 'forget01', 'forget05' or 'forget10': refuse a log that has more forget rows than this split.
        settings: Settings of the benchmark, such as {'ds_size': 300}.
        bootstrap: Resamples for intervals; 0 for none.
        seed: Seed of the bootstrap.

    Raises:
        DataError: A file is missing, damaged, or no stored evaluation.
        IncompatibleError: The two were not made in the same way, or the log is not of this split.
    """
    log, reference = Path(log), None if reference is None else Path(reference)
    benchmark = cast(Tofu, parse_member("benchmark", {"name": "tofu", **(settings or {})}))
    stored = read_tofu_log(log)
    _check_split(log, len(in_set(stored.rows, "forget")), split)
    numbers = score_stored(log, reference, benchmark=benchmark, resamples=bootstrap, seed=seed)
    made = {**stored.settings, **benchmark.spec(), "kind": stored.kind, "reference": str(reference or "")}
    return BenchmarkResult(
        benchmark="tofu",
        role="model",
        model=str(log),
        model_hash="",
        headlines=numbers.headlines,
        metrics=numbers.metrics,
        settings={**made, **({"split": split} if split else {})},
    )


def _check_split(log: Path, num_forget: int, split: str | None) -> None:
    if split is None:
        return
    if split not in SPLITS:
        raise ConfigError([f"--split: there is no '{split}'. {nearest(split, SPLITS)}"], source="the command")
    largest = NUM_ROWS * int(split.removeprefix("forget")) // 100
    if num_forget > largest:
        raise IncompatibleError(
            f"{log} has {num_forget} forget rows, but {split} has only {largest}.",
            fix="Give the split that the log was made on.",
        )
