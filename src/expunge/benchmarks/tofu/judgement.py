"""Judgement of a run by a test against the retain model, and by the utility relative to the target's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from expunge.benchmarks.base import Measurement
from expunge.benchmarks.shared.paired import (
    FORGETTING_UNKNOWN,
    NEEDS_TARGET,
    UTILITY_UNKNOWN,
    before_and_after,
)
from expunge.records import Conclusion, Value
from expunge.records.format import format_interval, format_number, format_point

THRESHOLD = 0.05
"""Largest p-value at which the test distinguishes two models."""
KEPT_FRACTION = 0.9
"""Smallest share of the target's utility that counts as kept."""

Side = Literal["above", "below", "alike", "unknown"]


@dataclass(frozen=True)
class RetainTest:
    """A two-sample test of forget rows under the unlearned model and the retain model, and a utility headline."""

    quality: str = "forget_quality"
    """Headline with the p-value of the test."""
    quality_title: str = "forget quality"
    compared: str = "truth ratios"
    """Scores that the test compares."""
    rows: str = "questions"
    utility: str = "model_utility"
    utility_title: str = "model utility"


TOFU = RetainTest()


def rules(test: RetainTest = TOFU, threshold: float = THRESHOLD, kept_fraction: float = KEPT_FRACTION) -> list[str]:
    """Return the rules of the judgement in words."""
    return [
        f"Forgotten: {test.quality_title} is above {threshold:g}. {_capitalized(test.quality_title)} is the p-value of "
        f"a Kolmogorov-Smirnov test that compares the {test.compared} of the unlearned model with those of the retain "
        "model, a model that never saw the forget set. Above the threshold the test cannot tell the two apart.",
        "Cannot be concluded: there is no retain model, or the test cannot tell even the target from the retain model.",
        "Too far or not far enough: when the test does tell the two apart, the probability of the forget answers (or "
        "else their ROUGE-L recall) shows on which side of the retain model the unlearned model is.",
        f"Utility kept: {test.utility_title} is at least {kept_fraction:g} times the target's.",
    ]


def judge_forgetting(
    target: Measurement | None,
    unlearned: Measurement,
    retain: Measurement | None,
    test: RetainTest = TOFU,
    threshold: float = THRESHOLD,
) -> tuple[Conclusion, list[str]]:
    """Conclude from the test against the retain model whether the model forgot.

    It forgot if the p-value exceeds `threshold`. The question stays open without a retain model, and also where the
    test cannot tell even the target from the retain model or has too few rows, since passing such a test means nothing.

    A model that fails the test is on one side of the retain model by the probability of the forget answers, which
    falls steadily while a model forgets. The truth ratio, folded as min(R, 1/R), rises and falls again.
    """
    quality = unlearned.value(test.quality)
    name = _capitalized(test.quality_title)
    side, facts = _side_of_retain_model(unlearned, retain)
    if quality.point is None:
        return FORGETTING_UNKNOWN, [f"{name} cannot be computed: needs {quality.needs}.", *facts]
    distance = quality.extra.get("ks")
    size = "" if distance is None else f", KS distance D = {format_number(distance)}"
    reasons = [
        f"{name} {format_point(quality)}{size}: the test {'cannot tell' if quality.point > threshold else 'tells'} the "
        f"unlearned model from the retain model (threshold {threshold:g}, {quality.n} {test.rows}).",
        *_power(quality, test, threshold),
    ]
    if quality.n and critical_distance(quality.n, threshold) is None:
        return FORGETTING_UNKNOWN, reasons + facts
    before = None if target is None else target.value(test.quality)
    if before is not None and before.point is not None and before.point > threshold:
        reasons.append(
            f"The test cannot tell even the target from the retain model ({test.quality_title} {format_point(before)} "
            "before unlearning), so passing it proves nothing about forgetting."
        )
        return FORGETTING_UNKNOWN, reasons + facts
    if quality.point > threshold:
        if quality.low is not None and quality.low <= threshold:
            reasons.append(
                f"The interval of {test.quality_title} {format_interval(quality)} reaches below {threshold:g}."
            )
        return Conclusion(outcome="yes", phrase="Forgotten as far as this test can see"), reasons + facts
    phrase = {
        "above": "Not forgotten",
        "below": "Unlearned too far (less is left than in a model that never knew)",
        "alike": "Not like a model that never saw the forget set",
        "unknown": "Not like a model that never saw the forget set",
    }[side]
    return Conclusion(outcome="no", phrase=phrase), reasons + facts


def judge_utility(
    target: Measurement | None, unlearned: Measurement, test: RetainTest = TOFU, kept_fraction: float = KEPT_FRACTION
) -> tuple[Conclusion, list[str]]:
    """Conclude whether utility is at least `kept_fraction` times the target's."""
    name = _capitalized(test.utility_title)
    after = unlearned.value(test.utility)
    before = Value.missing(NEEDS_TARGET) if target is None else target.value(test.utility)
    for value, model in ((after, "unlearned model"), (before, "target")):
        if value.point is None:
            return UTILITY_UNKNOWN, [f"{name} of the {model} cannot be computed: needs {value.needs}."]
    assert after.point is not None
    assert before.point is not None
    if before.point <= 0:
        return UTILITY_UNKNOWN, [f"{name} of the target is 0, so there was none to keep."]
    floor = kept_fraction * before.point
    reasons = [
        f"{name} {format_point(after)} against the target's {format_point(before)}: "
        f"{after.point / before.point:.0%} (kept means at least {kept_fraction:.0%})."
    ]
    if after.low is not None and after.high is not None and after.low < floor <= after.high:
        reasons.append(
            f"The interval of {test.utility_title} {format_interval(after)} spans the limit {format_number(floor)}: "
            f"more {test.rows} could change this conclusion."
        )
    if after.point >= floor:
        return Conclusion(outcome="yes", phrase="utility kept"), reasons
    return Conclusion(outcome="no", phrase="utility lost"), reasons


def decisive_metrics(target: Measurement | None, unlearned: Measurement, test: RetainTest = TOFU) -> str:
    """Return p-value and utility in one line, with the utility before unlearning."""
    quality = unlearned.value(test.quality)
    tested = (
        f"{test.quality_title} needs {quality.needs}"
        if quality.point is None
        else f"{test.quality_title} {format_point(quality)} on {quality.n} {test.rows}"
    )
    before = None if target is None else target.value(test.utility)
    return f"{tested}; {before_and_after(test.utility_title, before, unlearned.value(test.utility))}"


def limits(quality: Value, test: RetainTest = TOFU) -> list[str]:
    """Return what a reader cannot conclude from the test."""
    if quality.point is None or not quality.n:
        return ["No test against a retain model was made, so nothing here shows how much of the forget set is gone."]
    critical = critical_distance(quality.n)
    power = (
        f"; with {quality.n} {test.rows} it sees nothing below a distance of {format_number(critical)}"
        if critical
        else ""
    )
    return [
        f"A p-value is not a proof of absence. A high {test.quality_title} means that one test on one number per row "
        f"found no difference from the retain model{power}. It does not prove that the knowledge is gone from the "
        "weights.",
        f"The threshold of {THRESHOLD:g} is not a test at the {THRESHOLD:.0%} level, because {test.rows} of one group "
        f"depend on each other and both models were measured on the same {test.rows}. The paired p-value allows for "
        f"both: {_paired(quality)}.",
    ]


def critical_distance(n: int, alpha: float = THRESHOLD) -> float | None:
    """Return the smallest KS distance D at which two samples of n rows each differ at level alpha.

    Exact for two samples of equal size:
    P(D >= k/n) = 2 * sum over j >= 1 of (-1)^(j+1) C(2n, n - jk) / C(2n, n).

    Returns:
        D, or None when n is so small that no distance reaches alpha.

    Example:
        >>> critical_distance(400)
        0.0975

    References:
        Gnedenko and Korolyuk 1951.
    """
    low, high = 1, n + 1
    while low < high:
        middle = (low + high) // 2
        if ks_p_value(middle, n) <= alpha:
            high = middle
        else:
            low = middle + 1
    return None if low > n else low / n


def ks_p_value(steps: int, n: int) -> float:
    """Return P(D >= steps / n) for two samples of n rows each from one distribution; formula: `critical_distance`."""
    total = math.comb(2 * n, n)
    terms = [math.comb(2 * n, n - j * steps) for j in range(1, n // steps + 1)]
    return min(1.0, 2 * (sum(terms[::2]) - sum(terms[1::2])) / total)


def _power(quality: Value, test: RetainTest, threshold: float) -> list[str]:
    if quality.n < 1:
        return []
    critical = critical_distance(quality.n, threshold)
    if critical is None:
        return [f"With {quality.n} {test.rows} this test cannot find any difference at all."]
    return [
        f"With {quality.n} {test.rows} the test finds a difference only from D = {format_number(critical)} on; "
        "a smaller one goes unseen."
    ]


def _side_of_retain_model(unlearned: Measurement, retain: Measurement | None) -> tuple[Side, list[str]]:
    if retain is None:
        return "unknown", []
    for key, metric in (("forget/probability", "probability"), ("forget/rouge_l_recall", "ROUGE-L recall")):
        ours, theirs = unlearned.value(key), retain.value(key)
        if ours.point is None or theirs.point is None:
            continue
        side: Side = "alike"
        if ours.point > (theirs.point if theirs.high is None else theirs.high):
            side = "above"
        elif ours.point < (theirs.point if theirs.low is None else theirs.low):
            side = "below"
        meaning = {
            "above": "more than in a model that never saw the forget set, so something may be left",
            "below": "less than in a model that never saw the forget set, so it was pushed further than that",
            "alike": "within the range of a model that never saw the forget set",
        }[side]
        return side, [
            f"The forget answers' {metric} is {format_point(ours)}, the retain model's {format_point(theirs)}: "
            f"{meaning}."
        ]
    return "unknown", []


def _paired(quality: Value) -> str:
    paired = quality.extra.get("paired_p")
    return "not available for so few groups" if paired is None else format_number(paired, digits=2)


def _capitalized(title: str) -> str:
    return title[0].upper() + title[1:]
