"""Judgement of a run on user-defined data: against a retain model, or else against holdout rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import Measurement, SampleRow
from expunge.benchmarks.shared.membership import COMPARED, column_of
from expunge.benchmarks.shared.paired import (
    FORGETTING_UNKNOWN,
    NEEDS_RETAIN_MODEL,
    NEEDS_TARGET,
    RESAMPLES,
    all_of,
    before_and_after,
    within,
)
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.tofu import judgement as against_retain
from expunge.metrics.bootstrap import cluster_bootstrap, weighted_mean
from expunge.metrics.separation import NEEDS_HOLDOUT
from expunge.records import Conclusion, Judgement, Outcome, Value
from expunge.records.format import format_value

AGREEMENT = against_retain.RetainTest(
    quality="forget_agreement",
    quality_title="agreement with the retain model",
    compared="mean losses of the forget rows",
    rows="rows",
    utility="retain_knowledge",
    utility_title="knowledge of the retain set",
)

_DIFFERENCES = {"extraction_strength": "Extraction strength", "exact_memorization": "Exact memorisation"}


def judge(
    benchmark: str,
    target: Measurement | None,
    unlearned: Measurement,
    retain: Measurement | None,
    *,
    margin: float,
    seed: int,
) -> Judgement:
    """Conclude by the agreement with the retain model if there is one, else by a comparison with holdout rows.

    Args:
        benchmark: Name of the benchmark in records.
        target: The model before unlearning.
        unlearned: The model after unlearning.
        retain: The model that never saw the forget set.
        margin: Largest difference between forget and holdout rows that counts as alike.
        seed: Seed of bootstrap intervals.
    """
    agreement = unlearned.value(AGREEMENT.quality)
    rules = against_retain.rules(AGREEMENT)
    if retain is not None or agreement.point is not None:
        forgetting, reasons = against_retain.judge_forgetting(target, unlearned, retain, AGREEMENT)
        metrics = against_retain.decisive_metrics(target, unlearned, AGREEMENT)
        limits = against_retain.limits(agreement, AGREEMENT)
    else:
        forgetting, reasons = _against_holdout(target, unlearned, margin, seed)
        titles = {"forget_knowledge": "knowledge of the forget set", "membership_auc": "membership AUC"} | {
            AGREEMENT.utility: AGREEMENT.utility_title
        }
        metrics = "; ".join(
            before_and_after(title, None if target is None else target.value(name), unlearned.value(name))
            for name, title in titles.items()
        )
        limits = [
            "No test against a model that never saw the forget set was made. Extraction strength, memorisation and "
            "membership read the same answers after the same questions; other questions may still retrieve what was to "
            "be forgotten."
        ]
        rules = [_rule(margin), rules[-1]]
    utility, utility_reasons = against_retain.judge_utility(target, unlearned, AGREEMENT)
    return Judgement(
        benchmark=benchmark,
        title="Custom",
        forgetting=forgetting,
        utility=utility,
        metrics=metrics,
        reasons=reasons + utility_reasons,
        rules=rules,
        limits=limits,
    )


def _rule(margin: float) -> str:
    return (
        "Forgotten, without a retain model: forget rows look like holdout rows, which no model was trained on. That "
        "is: the 95% intervals of forget minus holdout in extraction strength and in exact memorisation lie within "
        f"{margin:g} of 0, and that of the membership AUC within {margin:g} of 0.5. Not forgotten: at least one "
        "interval lies outside its range and none within; partly: at least one outside and one within. An interval "
        "that does not lie outside decides nothing if the target's forget rows already look like holdout rows by this "
        "measure. Otherwise it cannot be concluded."
    )


def _against_holdout(
    target: Measurement | None, unlearned: Measurement, margin: float, seed: int
) -> tuple[Conclusion, list[str]]:
    before = None if target is None else target.value("forget_knowledge")
    reasons = [
        f"There is no {NEEDS_RETAIN_MODEL.removeprefix('a ')}, so forget rows are compared with holdout rows.",
        f"{before_and_after('Knowledge of the forget set', before, unlearned.value('forget_knowledge'))}.",
    ]
    if not in_set(unlearned.rows, "holdout"):
        return FORGETTING_UNKNOWN, [*reasons, f"The comparison needs {NEEDS_HOLDOUT}."]
    outcomes: list[Outcome] = []
    failed: list[str] = []
    below: list[bool] = []
    for title, center, after, before in _measures(target, unlearned, seed):
        alike = f"alike means within {margin:g} of {center:g}"
        if after.point is None:
            outcomes.append("inconclusive")
            reasons.append(f"{title} cannot be computed: needs {after.needs}.")
            continue
        earlier = "" if before is None or before.point is None else f", before {format_value(before)}"
        fact = f"{title}: {format_value(after)}{earlier} ({alike})"
        outcome = within(after, center, margin)
        if outcome != "no" and before is not None and within(before, center, margin) == "yes":
            reasons.append(f"{fact}. The target's rows already look alike, so this decides nothing.")
            continue
        if outcome == "yes" and (before is None or before.point is None):
            outcome = "inconclusive"
            fact += f", which means nothing without {NEEDS_TARGET}"
        if outcome == "no":
            failed.append(title.split(",")[0].lower().replace("auc", "AUC"))
            below.append(after.point < center)
        outcomes.append(outcome)
        undecided = "cannot be concluded" + (" without an interval" if after.low is None else "")
        state = {"yes": "alike", "no": "different"}.get(outcome, undecided)
        reasons.append(f"{fact}: {state}.")
    if not outcomes:
        return FORGETTING_UNKNOWN, reasons
    outcome = all_of(outcomes)
    if outcome == "inconclusive":
        return FORGETTING_UNKNOWN, reasons
    phrase = "Forgotten as far as a comparison with holdout rows can see"
    if outcome == "partly":
        phrase = f"Partly forgotten (unlike holdout rows in {' and '.join(failed)})"
    elif outcome == "no":
        too_far = "Unlearned too far (forget rows look less known than holdout rows)"
        phrase = too_far if all(below) else "Not forgotten"
    return Conclusion(outcome=outcome, phrase=phrase), reasons


def _measures(
    target: Measurement | None, unlearned: Measurement, seed: int
) -> list[tuple[str, float, Value, Value | None]]:
    """Return title, value of rows that look alike, and value after and before unlearning, of each measure."""
    measures = [
        (
            f"{title}, forget minus holdout rows",
            0.0,
            _difference(unlearned.rows, column, seed),
            None if target is None else _difference(target.rows, column, seed),
        )
        for column, title in _DIFFERENCES.items()
    ]
    auc = "membership_auc"
    return [
        *measures,
        (
            "Membership AUC, forget against holdout rows",
            0.5,
            unlearned.value(auc),
            None if target is None else target.value(auc),
        ),
    ]


def _difference(rows: Sequence[SampleRow], column: str, seed: int) -> Value:
    """Compute the mean of forget rows minus that of holdout rows; the groups of both sets are resampled separately."""
    scored = [[row for row in in_set(rows, name) if row.get(column) is not None] for name in COMPARED]
    if not all(scored):
        return Value.missing("forget and holdout rows that fit into the model's context")
    values = [column_of(set_rows, column) for set_rows in scored]

    def statistic(*weights: NDArray[np.float64]) -> NDArray[np.float64]:
        forget, holdout = (weighted_mean(*pair) for pair in zip(values, weights, strict=True))
        return forget - holdout

    groups = [[row["group"] for row in set_rows] for set_rows in scored]
    value = Value(point=float(values[0].mean() - values[1].mean()), n=sum(len(array) for array in values))
    return cluster_bootstrap(statistic, groups, RESAMPLES, seed).attach(value)
