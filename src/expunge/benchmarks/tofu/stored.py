"""Read stored evaluations: TOFU's logs, OpenUnlearning's TOFU_EVAL.json, and results of this project."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.tofu.formats import is_open_unlearning, is_tofu, open_unlearning_rows, tofu_rows
from expunge.errors import DataError
from expunge.reading import read_json
from expunge.records import BenchmarkResult
from expunge.rundir import RunDir, read_record

_EXPECTED = (
    "Expected one of: a TOFU log with top-level keys such as eval_log_forget.json; a TOFU_EVAL.json of OpenUnlearning "
    "with keys such as forget_truth_ratio; a result of this project (results/*.json)."
)


@dataclass(frozen=True)
class StoredLog:
    """A stored evaluation of one model on TOFU."""

    path: Path
    kind: str
    """'tofu', 'open-unlearning' or 'expunge'."""
    rows: list[SampleRow]
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the measurement; only results of this project record them."""


def read_tofu_log(path: Path) -> StoredLog:
    """Read a stored evaluation of any of the three kinds.

    Args:
        path: The JSON file.

    Returns:
        Its rows, with the columns of the benchmark tofu; values that the file lacks are None.

    Raises:
        DataError: The file is missing, truncated, or none of the three kinds; the message lists its keys.
    """
    data = load_json(path)
    if is_tofu(data):
        return StoredLog(path, "tofu", tofu_rows(path, data))
    if {"benchmark", "headlines"} <= data.keys():
        return _result(path)
    if is_open_unlearning(data):
        return StoredLog(path, "open-unlearning", open_unlearning_rows(path, data))
    keys = ", ".join(sorted(data)[:8]) or "none"
    raise DataError(f"{path} is not a stored TOFU evaluation: its keys are {keys}.", allowed=_EXPECTED)


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains a stored evaluation.

    Raises:
        DataError: The file is missing, truncated, or not a JSON object.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path} contains a {type(data).__name__}, not a stored evaluation.", allowed=_EXPECTED)
    return data


def _result(path: Path) -> StoredLog:
    import pyarrow as pa
    import pyarrow.parquet as pq

    result = read_record(path, BenchmarkResult)
    if not result.samples:
        raise DataError(
            f"{path} was stored without per-sample rows, so nothing can be compared with it.",
            fix="Measure the model again.",
        )
    try:
        samples = RunDir(path.parent.parent) / result.samples
        rows = pq.read_table(samples).to_pylist()
    except ValueError as error:
        # pyarrow's ArrowInvalid is a ValueError too, so this covers damaged files and paths outside the run folder.
        raise DataError(f"{path}: its samples cannot be read: {error}.") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: its samples {result.samples} are missing or damaged.",
            fix="Keep results/ and samples/ of a run together.",
        ) from error
    missing = {"set", "index", "question", "answer", "group", "nll"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(
            f"{path} is a result of the benchmark '{result.benchmark}', whose samples lack "
            f"{', '.join(sorted(missing))}.",
            fix="Give a result of the benchmark tofu.",
        )
    return StoredLog(path, "expunge", rows, dict(result.settings))
