"""Score stored TOFU evaluations without any model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from expunge.benchmarks.base import Headlines, SampleRow
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.tofu.benchmark import PAIRED_QUALITY, Tofu
from expunge.benchmarks.tofu.headlines import TofuHeadlines
from expunge.benchmarks.tofu.rows import CUT_SETS, same_rows
from expunge.benchmarks.tofu.stored import StoredLog, read_tofu_log
from expunge.config.load import parse_member
from expunge.data.tofu import NUM_ROWS
from expunge.errors import ConfigError, IncompatibleError, nearest
from expunge.modeling.opening import check_same_settings
from expunge.records import BenchmarkResult, Value

SPLITS = ("forget01", "forget05", "forget10")


def score_log(
    log: str | Path,
    retain_model: str | Path | None = None,
    *,
    split: str | None = None,
    settings: Mapping[str, Any] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> BenchmarkResult:
    """Compute forget quality and model utility of a stored TOFU evaluation.

    Args:
        log: A TOFU log, an OpenUnlearning TOFU_EVAL.json, or a result of this project (results/*.json).
        retain_model: The same of the retain model; without it forget quality is missing.
        split: 'forget01', 'forget05' or 'forget10': raise if the log has more forget rows than this split.
        settings: Settings of the benchmark, such as {'ds_size': 300}.
        bootstrap: Resamples for intervals; 0 for none.
        seed: Seed of the bootstrap.

    Raises:
        DataError: A file is missing, damaged, or no stored evaluation.
        IncompatibleError: The two were measured differently, or the log is of another split.
    """
    log, retain_model = Path(log), None if retain_model is None else Path(retain_model)
    benchmark = cast(Tofu, parse_member("benchmark", {"name": "tofu", **(settings or {})}))
    stored = read_tofu_log(log)
    _check_split(log, len(in_set(stored.rows, "forget")), split)
    numbers = score_stored(log, retain_model, benchmark=benchmark, resamples=bootstrap, seed=seed)
    made = {**stored.settings, **benchmark.spec(), "kind": stored.kind, "retain": str(retain_model or "")}
    return BenchmarkResult(
        benchmark=benchmark.key,
        title=benchmark.title,
        labels=dict(benchmark.labels()),
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


def score_stored(
    log: Path,
    retain_model: Path | None = None,
    *,
    benchmark: Tofu | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Headlines:
    """Compute forget quality and model utility from stored evaluations.

    Args:
        log: Evaluation of the model.
        retain_model: Evaluation of the retain model.
        benchmark: Settings; ds_size cuts the forget and retain rows of both files.
        resamples: Bootstrap resamples; 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        As `Tofu.headlines`. Forget quality uses the forget rows that both files have, and states how many.

    Raises:
        DataError: A file cannot be read.
        IncompatibleError: Both files record their settings, and these differ.
    """
    benchmark = benchmark or Tofu()
    ours = read_tofu_log(log)
    rows = _cut(ours.rows, benchmark.ds_size)
    numbers = benchmark.headlines(rows, None, resamples, seed)
    if retain_model is None:
        return numbers
    theirs = read_tofu_log(retain_model)
    check_same_settings(ours.settings, theirs.settings)
    how = TofuHeadlines(benchmark.truth_ratio_mean, benchmark.generate, resamples, seed)
    others = _cut(theirs.rows, benchmark.ds_size)
    quality, paired_quality = _quality(in_set(rows, "forget"), in_set(others, "forget"), how, ours, theirs)
    return Headlines(
        headlines={**numbers.headlines, "forget_quality": quality},
        metrics={**numbers.metrics, PAIRED_QUALITY: paired_quality},
    )


def _quality(
    ours: list[SampleRow], theirs: list[SampleRow], how: TofuHeadlines, log: StoredLog, retain_model: StoredLog
) -> tuple[Value, Value]:
    """Return forget quality and its paired version on the common rows, if the two files overlap as in one split.

    TOFU's forget sets are the last rows of one list, so a log of the fine-tuned model starts before the
    retain model's first forget row and may stop (ds_size) before its last. Any other overlap means that the
    retain model belongs to another split.
    """
    pairs = same_rows(ours, theirs)
    if not pairs:
        missing = Value.missing(
            f"forget rows that both files hold: {log.path.name} has {len(ours)}, {retain_model.path.name} has "
            f"{len(theirs)}, and none can be matched"
        )
        return missing, missing
    first, last = pairs[0], pairs[-1]
    unbroken = pairs == list(zip(range(first[0], last[0] + 1), range(len(pairs)), strict=False))
    if not unbroken or len(pairs) < min(len(theirs), len(ours) - first[0]):
        missing = Value.missing(
            f"a retain model of the same split: {retain_model.path.name} shares {len(pairs)} of its {len(theirs)} "
            f"forget rows with the {len(ours)} of {log.path.name}, not from its first one on"
        )
        return missing, missing
    where = ""
    if not len(pairs) == len(ours) == len(theirs):
        where = (
            f", rows {first[0]} to {last[0]} of the {len(ours)} of {log.path.name} and 0 to {last[1]} of the "
            f"{len(theirs)} of {retain_model.path.name}"
        )
    return how.quality([ours[i] for i, _ in pairs], [theirs[j] for _, j in pairs], where)


def _cut(rows: Iterable[SampleRow], ds_size: int | None) -> list[SampleRow]:
    if ds_size is None:
        return list(rows)
    return [row for row in rows if row["set"] not in CUT_SETS or row["index"] < ds_size]
