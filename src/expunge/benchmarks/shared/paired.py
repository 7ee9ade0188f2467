"""Differences between two models on the same rows, and conclusions from their intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.metrics.bootstrap import cluster_bootstrap, weighted_mean
from expunge.records import Conclusion, Outcome, Value
from expunge.records.format import format_interval, format_number, format_point

RESAMPLES = 1000
"""Bootstrap resamples of the intervals that judgements compute."""

UTILITY_UNKNOWN = Conclusion(outcome="inconclusive", phrase="utility cannot be judged")
FORGETTING_UNKNOWN = Conclusion(outcome="inconclusive", phrase="Whether it forgot cannot be concluded")
NEEDS_TARGET = "the target's evaluation (evaluate.before: true)"
NEEDS_RETAIN_MODEL = "a retain model (model.retain_model=... or the section retain_model)"


def paired_difference(
    samples: Sequence[tuple[Sequence[SampleRow], Sequence[SampleRow]]], column: str, seed: int, scale: float = 1.0
) -> Value:
    """Compute the mean difference of a column between two models, first minus second, on the rows that both have.

    Formula: the unweighted mean over samples of scale * mean over rows of (first - second).

    Args:
        samples: One pair of row lists per sample. Rows are paired by set, index and id.
        column: Column of numbers; rows where it is None under one of the models are left out.
        seed: Seed of the bootstrap.
        scale: Factor on every difference, such as 100 for percent.

    Returns:
        The difference; its interval resamples the groups of rows, or single rows where a row has no group. Missing
        where a sample has no common row, and without an interval where one has fewer than five groups. `extra` has
        the number of groups.
    """
    differences: list[NDArray[np.float64]] = []
    groups: list[list[Hashable]] = []
    num_missing = 0
    for first, second in samples:
        partners = {_key(row): row[column] for row in second if row[column] is not None}
        rows = [row for row in first if row[column] is not None and _key(row) in partners]
        num_missing += len(first) - len(rows)
        differences.append(np.array([scale * (float(row[column]) - float(partners[_key(row)])) for row in rows]))
        groups.append([row["group"] or _key(row) for row in rows])
    if not samples or any(not sample for sample in groups):
        return Value(point=None, n_missing=num_missing, needs="rows that were scored for both models")

    def statistic(*weights: NDArray[np.float64]) -> NDArray[np.float64]:
        means = [weighted_mean(values, counts) for values, counts in zip(differences, weights, strict=True)]
        return np.asarray(np.mean(means, axis=0), dtype=np.float64)

    value = Value(
        point=float(np.mean([values.mean() for values in differences])),
        n=sum(len(values) for values in differences),
        n_missing=num_missing,
        how="paired difference",
        extra={"groups": sum(len(set(sample)) for sample in groups)},
    )
    return cluster_bootstrap(statistic, groups, RESAMPLES, seed).attach(value)


def at_most(value: Value, limit: float) -> Outcome:
    """Return 'yes' if the interval lies at or below a limit, 'no' if it lies above, else 'inconclusive'."""
    if value.low is None or value.high is None:
        return "inconclusive"
    if value.high <= limit:
        return "yes"
    return "no" if value.low > limit else "inconclusive"


def within(value: Value, center: float, margin: float) -> Outcome:
    """Return 'yes' if the interval lies within `center` ± `margin`, 'no' if it lies outside, else 'inconclusive'."""
    if value.low is None or value.high is None:
        return "inconclusive"
    if center - margin <= value.low and value.high <= center + margin:
        return "yes"
    return "no" if value.low > center + margin or value.high < center - margin else "inconclusive"


def all_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the conclusion from criteria that must all hold: 'partly' where some hold and some do not.

    Without a criterion that fails, an inconclusive one leaves the conclusion open.
    """
    if set(outcomes) & {"no", "partly"}:
        return "partly" if set(outcomes) & {"yes", "partly"} else "no"
    return "yes" if set(outcomes) == {"yes"} else "inconclusive"


def judge_loss(loss: Value, tolerance: float, quantity: str, units: str) -> tuple[Conclusion, list[str]]:
    """Conclude from the loss of a metric whether utility was kept.

    Args:
        loss: Target minus unlearned model, with an interval.
        tolerance: Largest loss that counts as kept.
        quantity: Name of the metric in sentences, such as 'MMLU accuracy'.
        units: Name of what `loss.n` counts, such as 'questions'.
    """
    if loss.point is None:
        return UTILITY_UNKNOWN, [f"The loss of {quantity} cannot be computed: needs {loss.needs}."]
    size = f"Loss of {quantity} (target minus unlearned model, same {units}): {format_number(loss.point)}"
    if loss.low is None or loss.high is None:
        return UTILITY_UNKNOWN, [f"{size}, without an interval: {loss.no_interval}."]
    fact = f"{size} {format_interval(loss)} on {loss.n:,} {units} (kept means at most {tolerance:g})."
    # A bootstrap of equal values returns an interval of width 0, however few they are.
    equal = [f"All differences are equal, so {units} beyond these {loss.n:,} may differ more."]
    reasons = [fact, *(equal if loss.low == loss.high else [])]
    outcome = at_most(loss, tolerance)
    if outcome == "yes":
        return Conclusion(outcome="yes", phrase="utility kept"), reasons
    if outcome == "no":
        return Conclusion(outcome="no", phrase="utility lost"), reasons
    needed = "no number of"
    if not math.isclose(loss.point, tolerance, abs_tol=1e-12):
        # The half-width of an interval falls with the square root of n.
        half_width = (loss.high - loss.low) / 2
        needed = f"about {math.ceil(loss.n * (half_width / (tolerance - loss.point)) ** 2):,}"
    return (
        Conclusion(
            outcome="inconclusive", phrase=f"whether utility was kept cannot be concluded at {loss.n:,} {units}"
        ),
        [
            *reasons,
            f"The interval spans the limit {tolerance:g}. If difference and spread stayed the same, {needed} {units} "
            "would decide.",
        ],
    )


def loss_rule(quantity: str, tolerance: float, pairing: str) -> str:
    """Return the rule of `judge_loss` in words.

    Args:
        quantity: Name of the metric.
        tolerance: Largest loss that counts as kept.
        pairing: How rows are paired and resampled, such as 'by question'.
    """
    return (
        f"Utility kept: the 95% interval of the loss of {quantity} (target minus unlearned model, paired {pairing}) "
        f"ends at or below {tolerance:g}. Lost: it begins above {tolerance:g}. Otherwise the questions are too few for "
        "a conclusion."
    )


def before_and_after(name: str, before: Value | None, after: Value) -> str:
    """Return a metric with its value before unlearning, for the one-line summary of a judgement."""
    if after.point is None:
        return f"{name} needs {after.needs}"
    return f"{name} {format_point(after)}" + (
        f", before {format_point(before)}" if before is not None and before.point is not None else ""
    )


def _key(row: SampleRow) -> tuple[Hashable, ...]:
    return row["set"], row["index"], row.get("id")
