"""Read the evaluations that OpenUnlearning stores, and name their values as this project does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.tofu.formats import is_tofu
from expunge.benchmarks.tofu.stored import load_json
from expunge.commands.openunlearning.counterparts import LOG_KEYS, METRICS
from expunge.commands.score_log import score_log
from expunge.config.load import parse_member
from expunge.errors import DataError
from expunge.records import BenchmarkResult, Record, Value

LogBenchmark = Literal["tofu", "muse", "wmdp"]

_PERCENT = 100.0
_SIGNATURES: dict[LogBenchmark, tuple[str, ...]] = {
    "wmdp": ("/acc",),
    "muse": ("knowmem_ROUGE", "verbmem_ROUGE"),
    "tofu": ("Q_A_", "ruth_", "model_utility", "forget_quality"),
}
"""Parts of keys that identify the benchmark of a log; the first match decides."""
_EXPECTED = (
    "Expected a TOFU_EVAL.json, TOFU_SUMMARY.json, MUSE_EVAL.json, MUSE_SUMMARY.json or LMEval_SUMMARY.json of "
    "OpenUnlearning."
)
_NORMAL_QUANTILE = 1.96


class ImportedLog(Record):
    """An evaluation of OpenUnlearning with the names of this project."""

    path: str
    stored: dict[str, Value] = Field(default_factory=dict)
    """Headlines and metrics as the file has them."""
    computed: BenchmarkResult | None = None
    """Computed again from the rows of the file, with intervals; None if it has no rows of TOFU."""
    result: BenchmarkResult
    """Computed values, and stored ones where nothing could be computed."""
    unknown: list[str] = Field(default_factory=list)
    """Keys of the file without a counterpart."""

    @property
    def usable_as_retain_model(self) -> bool:
        """Whether `model.retain_model` can name this log: it has rows."""
        return self.computed is not None


def is_log(path: Path) -> bool:
    """Return whether the name is that of an evaluation of OpenUnlearning."""
    return path.name.endswith(("_EVAL.json", "_SUMMARY.json"))


def import_log(path: Path, retain_model: Path | None = None) -> ImportedLog:
    """Read an EVAL or SUMMARY file, or a log of TOFU's authors.

    Args:
        path: The file.
        retain_model: TOFU only: evaluation of the retain model with rows, to compute forget quality.

    Returns:
        Stored values by our names. MUSE's are converted to percent; lm-eval's standard errors become 95% intervals.

    Raises:
        DataError: The file is damaged or none of these.
        IncompatibleError: The retain model was measured differently.
    """
    data = load_json(path)
    benchmark = "tofu" if is_tofu(data) else _benchmark(path, data)
    values = {key: value for key, entry in data.items() if (value := _aggregate(entry)) is not None}
    known = LOG_KEYS[benchmark]
    stored = {known[key][0]: _value(benchmark, key, values) for key in values if key in known}
    computed = None
    if benchmark == "tofu" and (is_tofu(data) or _has_rows(data)):
        computed = score_log(path, retain_model)
    elif retain_model is not None:
        raise DataError(
            f"{path} has no rows of TOFU, so it cannot be compared with {retain_model}.",
            fix="Give the TOFU_EVAL.json, or leave out --retain-model.",
        )
    return ImportedLog(
        path=str(path),
        stored=stored,
        computed=computed,
        result=_result(path, benchmark, stored, computed),
        unknown=[] if is_tofu(data) else _unknown(data, known),
    )


def _benchmark(path: Path, data: Mapping[str, Any]) -> LogBenchmark:
    for name, parts in _SIGNATURES.items():
        if any(part in key for part in parts for key in data):
            return name
    keys = ", ".join(sorted(data)[:8]) or "none"
    raise DataError(f"{path} is no evaluation of OpenUnlearning: its keys are {keys}.", allowed=_EXPECTED)


def _has_rows(data: Mapping[str, Any]) -> bool:
    return any(isinstance(entry, dict) and entry.get("value_by_index") for entry in data.values())


def _aggregate(entry: Any) -> float | None:
    """Return the number of an entry: a SUMMARY has plain numbers, an EVAL `agg_value`; None without a number."""
    number = entry.get("agg_value") if isinstance(entry, dict) else entry
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return None
    return float(number)


def _unknown(data: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return the keys without a counterpart; the standard error of a known value belongs to it."""
    return sorted(key for key in data if key not in known and key.removesuffix("_stderr") not in known)


def _value(benchmark: LogBenchmark, key: str, values: Mapping[str, float]) -> Value:
    name, handler = LOG_KEYS[benchmark][key]
    # PrivLeak is in percent there, too.
    in_percent = benchmark == "muse" and name != "privleak"
    point = values[key] * (_PERCENT if in_percent else 1.0)
    differs = METRICS[handler].differs if handler else ""
    how = f"OpenUnlearning's {key}. {differs}".strip()
    error = values.get(f"{key}_stderr")
    if error is None:
        return Value(
            point=point, no_interval="the log has no interval", how=how, unit="%" if benchmark == "muse" else ""
        )
    margin = _NORMAL_QUANTILE * error
    return Value(
        point=point,
        low=max(0.0, point - margin),
        high=min(1.0, point + margin),
        how=f"{how} 95% interval: 1.96 stored standard errors.",
    )


def _result(
    path: Path, name: LogBenchmark, stored: Mapping[str, Value], computed: BenchmarkResult | None
) -> BenchmarkResult:
    benchmark = cast(Benchmark, parse_member("benchmark", {"name": name}))
    labels = benchmark.labels()
    titles = {**benchmark.metric_labels(), **labels}
    values = dict(stored)
    if computed is not None:
        known = {**computed.metrics, **computed.headlines}
        values |= {key: value for key, value in known.items() if value.point is not None or key not in stored}
    # lm-eval stores WMDP and MMLU in one file.
    headlines = [key for key in values if key in labels or name == "wmdp"]
    return BenchmarkResult(
        benchmark=name,
        title=benchmark.title,
        labels=titles,
        role="model",
        model=str(path),
        model_hash="",
        headlines={key: values[key] for key in headlines},
        metrics={key: value for key, value in values.items() if key not in headlines},
        settings={"kind": "open-unlearning"},
    )
