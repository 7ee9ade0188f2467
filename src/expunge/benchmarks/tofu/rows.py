"""Rows of TOFU: their columns, and which rows of two evaluations are the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.rows import check_settings, in_set
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
"""Sets of 20 questions per author, which ds_size shortens."""
_OPTION_SETS = ("real_authors", "world_facts")

INFORMED_SHARE = 0.8
"""A forget group counts as known to the retain model from this share of the retain set's mean probability on."""
INFORMED_FROM = 0.5
"""A retain model whose mean probability on the retain set is lower knows too little for this to show."""
INFORMED_GROUPS = 0.25
"""A retain model is refused from this share of known forget groups on."""


def component(rows: Sequence[SampleRow], name: str, set_name: str, mean: Mean) -> Floats:
    """One number per row; NaN where the row could not be scored.

    Args:
        rows: Rows of one set.
        name: 'probability', 'rouge_l_recall' or 'truth_ratio'.
        set_name: Which set, since real authors and world facts use the option-normalised probability, and the
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
    """R of each row; NaN where it could not be computed."""
    return np.array([_or_nan(row_truth_ratio(row, mean)) for row in rows])


def row_truth_ratio(row: Mapping[str, Any], mean: Mean) -> float | None:
    """R of one row from its scores; a log that holds R alone gives that, which is the geometric one."""
    right, wrong = row.get("paraphrased_nll"), _numbers(row.get("perturbed_nll"))
    if right is None or not wrong:
        return row.get("truth_ratio") if mean == "geometric" else None
    ratio = float(truth_ratio([right], [wrong], mean)[0])
    return None if np.isnan(ratio) else ratio


def same_rows(rows: Sequence[SampleRow], others: Sequence[SampleRow]) -> list[tuple[int, int]]:
    """Pairs of positions at which two lists of one set hold the same question and answer.

    Logs of other tools hold the whole prompt instead of the question, and texts that a tokenizer has spaced
    anew. So white space is ignored, and a question matches the prompt that contains it. Where one side holds
    no texts at all, rows are paired by position, but only if both sides have equally many.

    Returns:
        (position in `rows`, position in `others`), sorted by the first; each row is used once.
    """
    if not (_has_text(rows) and _has_text(others)):
        return [(i, i) for i in range(len(rows))] if len(rows) == len(others) else []
    by_answer: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for j, other in enumerate(others):
        by_answer[_squeeze(other["answer"])].append((j, _squeeze(other["question"])))
    pairs = []
    for i, row in enumerate(rows):
        question, candidates = _squeeze(row["question"]), by_answer[_squeeze(row["answer"])]
        found = next((c for c in candidates if c[1] == question), None) or next(
            (c for c in candidates if question in c[1] or c[1] in question), None
        )
        if found is not None:
            candidates.remove(found)
            pairs.append((i, found[0]))
    return pairs


def check_retain_model(
    rows: Sequence[SampleRow],
    retain_model: Sequence[SampleRow],
    settings: Mapping[str, Any],
    retain_settings: Mapping[str, Any],
) -> None:
    """Refuse a retain model whose rows are not the rows measured here.

    Args:
        rows: Rows of this model.
        retain_model: Rows of the retain model.
        settings: Known facts of this evaluation: split, prompt (hash), vocab (tokenizer hash), architecture.
        retain_settings: The same of the retain model.

    Raises:
        IncompatibleError: Another split, ds_size, prompt, tokenizer or model family, or other rows.
    """
    check_settings(settings, retain_settings)
    if not in_set(retain_model, "forget"):
        raise IncompatibleError(
            "the retain model holds no forget rows.",
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
            f"the retain model's {name} rows are not the rows measured here: here are {len(ours)}, "
            f"there are {len(theirs)}, and {len(pairs)} are the same."
        )
        if len(pairs) == min(len(ours), len(theirs)):
            raise IncompatibleError(
                problem,
                allowed="The two differ in ds_size, and p-values of different sizes do not compare.",
                fix=f"Set ds_size: {len(pairs)} for both.",
            )
        raise IncompatibleError(
            problem,
            allowed=f"Not in the retain model: '{_first_unpaired(ours, pairs)}'.",
            fix="Give the retain model of the same split, or its results.",
        )


def refuse_informed(retain_model: Sequence[SampleRow]) -> None:
    """Refuse a retain model that knows many of the forget groups as well as it knows the retain set.

    Raises:
        IncompatibleError: It was trained on the forget set, or is the retain model of a smaller split.
    """

    def mean_probability(rows: Sequence[SampleRow]) -> float:
        known = [np.exp(-row["nll"]) for row in rows if row.get("nll") is not None]
        return float(np.mean(known)) if known else float("nan")

    retained = mean_probability(in_set(retain_model, "retain"))
    if not retained >= INFORMED_FROM:
        return
    groups: dict[str, list[SampleRow]] = defaultdict(list)
    for row in in_set(retain_model, "forget"):
        groups[str(row.get("group"))].append(row)
    known = [name for name, rows in groups.items() if mean_probability(rows) >= INFORMED_SHARE * retained]
    if len(known) >= max(1, INFORMED_GROUPS * len(groups)):
        raise IncompatibleError(
            f"the retain model knows {len(known)} of the {len(groups)} forget groups (such as {known[0]}) as well as "
            "the retain set, so it was trained on them.",
            fix="Give a model that was trained on this split's retain set only.",
        )


def _first_unpaired(rows: Sequence[SampleRow], pairs: Sequence[tuple[int, int]]) -> str:
    paired = {i for i, _ in pairs}
    return next((str(row["question"]) for i, row in enumerate(rows) if i not in paired), "")


def _option_probability(row: SampleRow) -> float:
    right, wrong = row.get("nll"), _numbers(row.get("perturbed_nll"))
    return float(option_probability([right], [wrong])[0]) if right is not None and wrong else float("nan")


def _numbers(values: Sequence[float | None] | None) -> list[float] | None:
    """The values, or None if one of them is missing: a mean over the rest would be another number."""
    if values is None or any(value is None for value in values):
        return None
    return [float(value) for value in values if value is not None]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _has_text(rows: Sequence[SampleRow]) -> bool:
    return any(row.get("answer") for row in rows)


def _squeeze(text: str) -> str:
    return "".join(text.split())
