"""Stored evaluations: TOFU's own logs, OpenUnlearning's TOFU_EVAL.json, and results of this project."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.benchmarks._base import Headlines, SampleRow
from expunge.benchmarks._tofu_formats import (
    is_open_unlearning,
    is_tofu,
    open_unlearning_rows,
    tofu_rows,
)
from expunge.benchmarks._tofu_rows import CUT_SETS, check_settings, in_set, same_rows
from expunge.benchmarks._tofu_values import Measuring
from expunge.benchmarks.tofu import Tofu
from expunge.errors import DataError
from expunge.records import BenchmarkResult, Value
from expunge.rundir import RunDir, read_record

_EXPECTED = (
    "Expected one of: a TOFU log with eval_log_forget.json and the like as top-level keys; a TOFU_EVAL.json "
    "of OpenUnlearning with forget_truth_ratio and the like; a result of this project (results/*.json)."
)


@dataclass(frozen=True)
class StoredLog:
    """A stored evaluation of one model on TOFU."""

    path: Path
    kind: str
    """'tofu', 'open-unlearning' or 'expunge'."""
    rows: list[SampleRow]
    settings: dict[str, Any] = field(default_factory=dict)
    """What the file says about how it was made; the two foreign kinds say nothing."""


def read_tofu_log(path: Path) -> StoredLog:
    """Read a stored evaluation of any of the three kinds.

    Args:
        path: The JSON file.

    Returns:
        Its rows in the columns of the benchmark tofu; a number that the file lacks is None.

    Raises:
        DataError: The file is missing, cut short, or none of the three kinds; the message names its keys.
    """
    data = _load(path)
    if is_tofu(data):
        return StoredLog(path, "tofu", tofu_rows(path, data))
    if {"benchmark", "headlines"} <= data.keys():
        return _own_log(path)
    if is_open_unlearning(data):
        return StoredLog(path, "open-unlearning", open_unlearning_rows(path, data))
    found = ", ".join(sorted(data)[:8]) or "none"
    raise DataError(f"{path} is not a stored TOFU evaluation: its keys are {found}.", allowed=_EXPECTED)


def score_stored(
    log: Path,
    reference: Path | None = None,
    *,
    benchmark: Tofu | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Headlines:
    """Forget quality and model utility from stored evaluations, without any model.

    Args:
        log: Evaluation of the model in question.
        reference: Evaluation of the retain-only model.
        benchmark: Settings; ds_size shortens both files' forget and retain rows.
        resamples: Bootstrap resamples; 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        As `Tofu.headlines`. Forget quality rests on the forget rows that both files hold, and says how many.

    Raises:
        DataError: A file cannot be read.
        IncompatibleError: Both files say how they were made, and it was not in the same way.
    """
    benchmark = benchmark or Tofu()
    ours = read_tofu_log(log)
    rows = _cut(ours.rows, benchmark.ds_size)
    numbers = benchmark.headlines(rows, None, resamples, seed)
    if reference is None:
        return numbers
    theirs = read_tofu_log(reference)
    check_settings(ours.settings, theirs.settings)
    how = Measuring(benchmark.truth_ratio_mean, benchmark.generate, resamples, seed)
    others = _cut(theirs.rows, benchmark.ds_size)
    quality = _quality(in_set(rows, "forget"), in_set(others, "forget"), how, ours, theirs)
    return Headlines(headlines={**numbers.headlines, "forget_quality": quality}, metrics=numbers.metrics)


def _quality(
    ours: list[SampleRow], theirs: list[SampleRow], how: Measuring, log: StoredLog, reference: StoredLog
) -> Value:
    """Forget quality on the common rows, if these are all that the two files can have in common.

    TOFU's forget sets are the last rows of one list, so a log of the fine-tuned model starts before the
    reference's first forget row and may stop (ds_size) before its last. Any other overlap means that the
    reference belongs to another split.
    """
    pairs = same_rows(ours, theirs)
    if not pairs:
        return Value.missing(
            f"forget rows that both files hold: {log.path.name} has {len(ours)}, {reference.path.name} has "
            f"{len(theirs)}, and none can be matched"
        )
    first, last = pairs[0], pairs[-1]
    unbroken = pairs == list(zip(range(first[0], last[0] + 1), range(len(pairs)), strict=False))
    if not unbroken or len(pairs) < min(len(theirs), len(ours) - first[0]):
        return Value.missing(
            f"a reference of the same split: {reference.path.name} shares {len(pairs)} of its {len(theirs)} "
            f"forget rows with the {len(ours)} of {log.path.name}, not from its first one on"
        )
    where = ""
    if not len(pairs) == len(ours) == len(theirs):
        where = (
            f", rows {first[0]} to {last[0]} of the {len(ours)} of {log.path.name} and 0 to {last[1]} of the "
            f"{len(theirs)} of {reference.path.name}"
        )
    return how.quality([ours[i] for i, _ in pairs], [theirs[j] for _, j in pairs], where)


def _cut(rows: Iterable[SampleRow], ds_size: int | None) -> list[SampleRow]:
    if ds_size is None:
        return list(rows)
    return [row for row in rows if row["set"] not in CUT_SETS or row["index"] < ds_size]


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.", fix="Give the path to a stored evaluation (.json).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", fix="Give the path to a .json file.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text, so it is not a stored evaluation.", allowed=_EXPECTED) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not complete JSON: {error.msg} in line {error.lineno}.",
            fix="It may have been cut short; copy or download it again.",
        ) from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds a {type(data).__name__}, not a stored evaluation.", allowed=_EXPECTED)
    return data


def _own_log(path: Path) -> StoredLog:
    import pyarrow as pa
    import pyarrow.parquet as pq

    result = read_record(path, BenchmarkResult)
    if not result.samples:
        raise DataError(
            f"{path} was stored without per-sample records, so it can be read but not compared.",
            fix="Measure the model again.",
        )
    try:
        samples = RunDir(path.parent.parent) / result.samples
        rows = pq.read_table(samples).to_pylist()
    except ValueError as error:
        # pyarrow's ArrowInvalid is a ValueError too: a damaged file and a path that leaves the run end here.
        raise DataError(f"{path}: its samples cannot be used: {error}.") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: its samples {result.samples} are missing or damaged.",
            fix="Keep results/ and samples/ of a run together.",
        ) from error
    lacking = {"set", "index", "question", "answer", "group", "nll"} - set(rows[0] if rows else ())
    if lacking:
        raise DataError(
            f"{path} is a result of the benchmark '{result.benchmark}', whose samples lack "
            f"{', '.join(sorted(lacking))}.",
            fix="Give a result of the benchmark tofu.",
        )
    return StoredLog(path, "expunge", rows, dict(result.settings))
