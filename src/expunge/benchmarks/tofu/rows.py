"""TOFU's rows: values per row, and matching of the rows of two evaluations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.rows import in_set
from expunge.errors import IncompatibleError
from expunge.metrics.probability import (
    option_probability,
    probability,
    truth_ratio,
    truth_ratio_forget,
    truth_ratio_utility,
)

Floats = NDArray[np.float64]
Mean = Literal["geometric", "arithmetic"]

SetName = Literal["forget", "retain", "real_authors", "world_facts"]
SETS: tuple[SetName, ...] = ("forget", "retain", "real_authors", "world_facts")
UTILITY_SETS = SETS[1:]
COMPONENTS = ("probability", "rouge_l_recall", "truth_ratio")
CUT_SETS = ("forget", "retain")
"""Sets with 20 questions per author, which `ds_size` shortens."""
_OPTION_SETS = ("real_authors", "world_facts")

INFORMED_SHARE = 0.8
"""A forget group counts as known to the retain model if its mean probability is at least this share of the retain
set's."""
INFORMED_FROM = 0.5
"""Smallest mean probability on the retain set at which a retain model knows enough for the check."""
INFORMED_GROUPS = 0.25
"""Smallest share of known forget groups at which a retain model is refused."""


def component(rows: Sequence[SampleRow], name: str, set_name: str, mean: Mean) -> Floats:
    """Return one value per row; NaN if the row could not be scored.

    Args:
        rows: Rows of one set.
        name: 'probability', 'rouge_l_recall' or 'truth_ratio'.
        set_name: Name of the set: real authors and world facts use the option-normalised probability, and the
            forget set another aggregation of the truth ratio.
        mean: Mean over the wrong answers in the truth ratio.
    """
    if name == "rouge_l_recall":
        return np.array([_or_nan(row.get(name)) for row in rows])
    if name == "truth_ratio":
        ratios = truth_ratios(rows, mean)
        return truth_ratio_forget(ratios) if set_name == "forget" else truth_ratio_utility(ratios)
    if set_name in _OPTION_SETS:
        return np.array([_option_probability(row) for row in rows])
    return probability(np.array([_or_nan(row.get("nll")) for row in rows]))


def truth_ratios(rows: Sequence[SampleRow], mean: Mean) -> Floats:
    """Return the truth ratio R of each row; NaN if it could not be computed."""
    return np.array([_or_nan(row_truth_ratio(row, mean)) for row in rows])


def row_truth_ratio(row: Mapping[str, Any], mean: Mean) -> float | None:
    """Return the truth ratio R of one row from its losses, or the stored (geometric) R if a log has no losses."""
    right, wrong = row.get("paraphrased_nll"), _complete(row.get("perturbed_nll"))
    if right is None or not wrong:
        return row.get("truth_ratio") if mean == "geometric" else None
    ratio = float(truth_ratio([right], [wrong], mean)[0])
    return None if np.isnan(ratio) else ratio


def same_rows(first: Sequence[SampleRow], second: Sequence[SampleRow]) -> list[tuple[int, int]]:
    """Return pairs of positions at which two lists of one set have the same question and answer.

    Logs of other tools contain the full prompt instead of the question, and texts with changed spaces after
    tokenization. So white space is ignored, and a question matches the prompt that contains it. If one side has no
    texts at all, rows are paired by position, but only if both sides have equally many.

    Returns:
        (position in `first`, position in `second`), sorted by the first; each row is used once.
    """
    if not all(any(row.get("answer") for row in rows) for rows in (first, second)):
        return [(i, i) for i in range(len(first))] if len(first) == len(second) else []
    by_answer: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for j, row in enumerate(second):
        by_answer[_squeeze(row["answer"])].append((j, _squeeze(row["question"])))
    pairs = []
    for i, row in enumerate(first):
        question, candidates = _squeeze(row["question"]), by_answer[_squeeze(row["answer"])]
        match = next((c for c in candidates if c[1] == question), None) or next(
            (c for c in candidates if question in c[1] or c[1] in question), None
        )
        if match is not None:
            candidates.remove(match)
            pairs.append((i, match[0]))
    return pairs


def check_same_rows(rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> None:
    """Raise if the retain model's rows are not the rows measured here; sets that one side lacks are not compared.

    Raises:
        IncompatibleError: No forget rows, another `ds_size`, or other rows.
    """
    if not in_set(retain_model, "forget"):
        raise IncompatibleError(
            "the retain model's evaluation has no forget rows.",
            fix="Measure the retain model on the forget set as well.",
        )
    for name in SETS:
        ours, theirs = in_set(rows, name), in_set(retain_model, name)
        if not ours or not theirs:
            continue
        pairs = same_rows(ours, theirs)
        if len(pairs) == len(ours) == len(theirs):
            continue
        problem = (
            f"the retain model's {name} rows differ from the rows measured here: {len(theirs)} there, {len(ours)} "
            f"here, {len(pairs)} in common."
        )
        if len(pairs) == min(len(ours), len(theirs)):
            raise IncompatibleError(
                problem,
                allowed="They differ in ds_size, and p-values from different numbers of rows are not comparable.",
                fix=f"Set ds_size: {len(pairs)} for both.",
            )
        paired = {i for i, _ in pairs}
        unpaired = next((str(row["question"]) for i, row in enumerate(ours) if i not in paired), "")
        raise IncompatibleError(
            problem,
            allowed=f"Not in the retain model's evaluation: '{unpaired}'.",
            fix="Give the retain model of the same split, or its results.",
        )


def refuse_informed(retain_model: Sequence[SampleRow]) -> None:
    """Raise if the retain model knows many of the forget groups about as well as the retain set.

    Raises:
        IncompatibleError: It was trained on the forget set, or is the retain model of a smaller split.
    """

    def mean_probability(rows: Sequence[SampleRow]) -> float:
        probabilities = [np.exp(-row["nll"]) for row in rows if row.get("nll") is not None]
        return float(np.mean(probabilities)) if probabilities else float("nan")

    retained = mean_probability(in_set(retain_model, "retain"))
    if not retained >= INFORMED_FROM:
        return
    groups: dict[str, list[SampleRow]] = defaultdict(list)
    for row in in_set(retain_model, "forget"):
        groups[str(row.get("group"))].append(row)
    informed = [name for name, rows in groups.items() if mean_probability(rows) >= INFORMED_SHARE * retained]
    if len(informed) >= max(1, INFORMED_GROUPS * len(groups)):
        raise IncompatibleError(
            f"the retain model knows {len(informed)} of the {len(groups)} forget groups (such as {informed[0]}) as "
            "well as the retain set, so it was trained on them.",
            fix="Give a model that was trained on this split's retain set only.",
        )


def _option_probability(row: SampleRow) -> float:
    right, wrong = row.get("nll"), _complete(row.get("perturbed_nll"))
    return float(option_probability([right], [wrong])[0]) if right is not None and wrong else float("nan")


def _complete(values: Sequence[float | None] | None) -> list[float] | None:
    """Return the values; None if one is missing, since a mean over the rest would be another quantity."""
    if values is None or any(value is None for value in values):
        return None
    return [float(value) for value in values if value is not None]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _squeeze(text: str) -> str:
    return "".join(text.split())
