"""Convert evaluations that were stored by TOFU's code or by OpenUnlearning to rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.tofu.rows import CUT_SETS, SETS, row_truth_ratio
from expunge.errors import DataError

ROWS_PER_AUTHOR = 20

_TOFU_SECTIONS = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
_OPEN_UNLEARNING_PREFIXES = {
    "forget": "forget",
    "retain": "retain",
    "real_authors": "ra",
    "world_facts": "wf",
}
_OPEN_UNLEARNING_METRICS = (
    "Q_A_Prob",
    "Q_A_PARA_Prob",
    "Q_A_PERT_Prob",
    "Q_A_ROUGE",
    "truth_ratio",
    "Truth_Ratio",
)


def is_tofu(data: Mapping[str, Any]) -> bool:
    """Return whether these are the TOFU authors' logs."""
    return bool(data.keys() & _TOFU_SECTIONS.keys())


def is_open_unlearning(data: Mapping[str, Any]) -> bool:
    """Return whether this is a TOFU_EVAL.json of OpenUnlearning."""
    return any(_by_index(data, name, metric) for name in SETS for metric in _OPEN_UNLEARNING_METRICS)


def tofu_rows(path: Path, data: Mapping[str, Any]) -> list[SampleRow]:
    """Return the rows of the TOFU authors' logs, with the columns of the benchmark tofu.

    Raises:
        DataError: A section does not have the format of those logs.
    """
    rows = []
    for section, name in _TOFU_SECTIONS.items():
        if section not in data:
            continue
        block = _mapping(data[section], f"{path}: {section}")
        columns = {key: _mapping(value, f"{path}: {section}/{key}") for key, value in block.items()}
        if "avg_gt_loss" not in columns:
            raise DataError(
                f"{path}: {section} has no avg_gt_loss.", allowed=f"Its keys: {', '.join(sorted(block)[:8])}."
            )

        def cell(column: str, index: str, columns: Mapping[str, Mapping[str, Any]] = columns) -> Any:
            return columns.get(column, {}).get(index)

        for index in _indices(columns["avg_gt_loss"], f"{path}: {section}/avg_gt_loss"):
            where = f"{path}: {section}, row {index}"
            texts = _texts(cell("generated_text", index) or ["", None, ""], where)
            rows.append(
                _row(
                    name,
                    int(index),
                    texts=(texts[0], texts[-1], texts[1]),
                    nll=_number(cell("avg_gt_loss", index), where),
                    num_tokens=cell("num_token_gt", index),
                    paraphrased_nll=_number(cell("avg_paraphrased_loss", index), where),
                    perturbed_nll=_list(cell("average_perturb_loss", index), where),
                    rouge_l_recall=_number(cell("rougeL_recall", index), where),
                    rouge_1_recall=_number(cell("rouge1_recall", index), where),
                )
            )
    return rows


def _by_index(data: Mapping[str, Any], name: str, metric: str) -> dict[str, Any] | None:
    """Return the values of one metric by row index in an OpenUnlearning file, or None."""
    block = data.get(f"{_OPEN_UNLEARNING_PREFIXES[name]}_{metric}")
    values = block.get("value_by_index") if isinstance(block, dict) else None
    return values if isinstance(values, dict) else None


def open_unlearning_rows(path: Path, data: Mapping[str, Any]) -> list[SampleRow]:
    """Return the rows of a TOFU_EVAL.json, with the columns of the benchmark tofu.

    The truth ratio is recomputed from the losses if the file has them, without the 1e-10 that OpenUnlearning adds to
    the denominator.

    Raises:
        DataError: A metric does not have the format of those files.
    """
    rows = []
    for name in SETS:
        columns = {metric: _by_index(data, name, metric) or {} for metric in _OPEN_UNLEARNING_METRICS}
        longest = max(columns.values(), key=len)

        def cell(metric: str, index: str, key: str, columns: Mapping[str, Any] = columns) -> Any:
            entry = columns[metric].get(index)
            return entry.get(key) if isinstance(entry, dict) else None

        for index in _indices(longest, f"{path}: {name}"):
            where = f"{path}: {name}, row {index}"
            nll = _number(cell("Q_A_Prob", index, "avg_loss"), where)
            paraphrased = _number(cell("Q_A_PARA_Prob", index, "avg_loss"), where)
            has_paraphrase = name in CUT_SETS
            texts = _texts([cell("Q_A_ROUGE", index, key) for key in ("input", "ground_truth", "generation")], where)
            ratio = cell("truth_ratio", index, "score")
            rows.append(
                _row(
                    name,
                    int(index),
                    texts=texts,
                    nll=nll,
                    num_tokens=None,
                    paraphrased_nll=paraphrased if has_paraphrase else nll,
                    perturbed_nll=_list(cell("Q_A_PERT_Prob", index, "avg_loss"), where),
                    rouge_l_recall=_number(cell("Q_A_ROUGE", index, "rougeL_recall"), where),
                    rouge_1_recall=_number(cell("Q_A_ROUGE", index, "rouge1_recall"), where),
                    truth_ratio=_number(cell("Truth_Ratio", index, "score") if ratio is None else ratio, where),
                )
            )
    return rows


def _row(name: str, index: int, *, texts: Any, **values: Any) -> SampleRow:
    question, answer, generation = texts
    group = f"author/{index // ROWS_PER_AUTHOR}" if name in CUT_SETS else str(index)
    row: SampleRow = {
        "set": name,
        "index": index,
        "id": f"{name}/{index}",
        "group": f"{name}/{group}",
        "question": question or "",
        "answer": answer or "",
        "generation": generation,
        "truth_ratio": None,
        **values,
    }
    return {**row, "truth_ratio": row_truth_ratio(row, "geometric")}


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is a {type(value).__name__}, not a mapping.", fix="Check or download the file again.")
    return value


def _indices(column: Mapping[str, Any], where: str) -> list[str]:
    """Return the row numbers in numeric order; as text, '10' would sort before '2'."""
    if not all(key.isascii() and key.isdigit() and len(key) < 19 for key in column):
        raise DataError(f"{where} has row names that are not numbers.", fix="Check or download the file again.")
    return sorted(column, key=int)


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: {value!r} is not a number.", fix="Check or download the file again.")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise DataError(f"{where}: the number is too large.", fix="Check or download the file again.")
    return None if math.isnan(value) else float(value)


def _texts(value: Any, where: str) -> list[str | None]:
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(text, str | None) for text in value):
        raise DataError(f"{where}: the texts are not a list of texts.", fix="Check or download the file again.")
    return value


def _list(value: Any, where: str) -> list[float | None]:
    if value is None:
        return []
    return [_number(item, where) for item in (value if isinstance(value, list) else [value])]
