"""The plain sentence of a run: did it forget, was the rest kept, and what the numbers behind it can bear."""

from __future__ import annotations

import math
from typing import Literal

from expunge.records import BenchmarkResult, Value, Verdict
from expunge.report import familiarity
from expunge.report.tables import format_interval, format_number, format_point

THRESHOLD = 0.05
KEPT_FRACTION = 0.9
Side = Literal["above", "below", "alike", "unknown"]


def rules(threshold: float = THRESHOLD, kept_fraction: float = KEPT_FRACTION) -> list[str]:
    """The rules of the verdict in words, as reports print them."""
    return [
        f"Forgotten: forget quality is above {threshold:g}. Forget quality is the p-value of a "
        "Kolmogorov-Smirnov "
        "test that compares the truth ratios of the unlearned model with those of the retain model, a "
        "model that never "
        "saw the forget set. Above the threshold the test cannot tell the two apart.",
        "Cannot be said: there is no retain model, or the test cannot tell even the target from the retain model.",
        "Too far or not far enough: when the test does tell the two apart, the probability of the "
        "forget answers "
        "(else their ROUGE-L recall) says on which side of the retain model the model stands.",
        f"Utility kept: model utility is at least {kept_fraction:g} times the target's.",
        familiarity.rule(),
    ]


def make_verdict(
    target: BenchmarkResult | None,
    unlearned: BenchmarkResult | None,
    retain_model: BenchmarkResult | None,
    *,
    threshold: float = THRESHOLD,
    kept_fraction: float = KEPT_FRACTION,
) -> Verdict:
    """Say what the numbers support about a run, and never more.

    `forgot` is True when the forget quality exceeds `threshold`: the KS test cannot tell the model from one
    that never saw the forget set. It is None without a retain model, and also when the test cannot tell the
    target itself from the retain model, since passing such a test means nothing. `kept` is True when the model
    utility is at least `kept_fraction` times the target's.

    The side on which a model misses the retain model is judged by the probability of the forget answers: it
    falls steadily while a model forgets. The truth ratio, folded as min(R, 1/R), rises and falls again.

    A benchmark without forget quality that measures familiarity is judged by that (`familiarity.rule`).

    Args:
        target: Result of the model before unlearning.
        unlearned: Result of the same benchmark after it; None when it has not been evaluated yet.
        retain_model: Result of the model that never saw the forget set.
        threshold: Smallest p-value that counts as forgotten.
        kept_fraction: Smallest share of the target's utility that counts as kept.
    """
    if unlearned is None:
        return Verdict(
            forgot=None,
            kept=None,
            sentence="Nothing can be said yet: the unlearned model has not been evaluated.",
        )
    if "forget_quality" not in unlearned.headlines and "familiarity" in unlearned.headlines:
        found = familiarity.judge(target, unlearned)
        opening = _opening(found.forgot, "above", found.kept)
        return Verdict(
            forgot=found.forgot, kept=found.kept, sentence=f"{opening}: {found.numbers}.", reasons=found.reasons
        )
    forgot, side, reasons = _judge_forgetting(target, unlearned, retain_model, threshold)
    kept, more = _judge_utility(target, unlearned, kept_fraction)
    sentence = f"{_opening(forgot, side, kept)}: {_numbers(target, unlearned)}."
    return Verdict(forgot=forgot, kept=kept, sentence=sentence, reasons=reasons + more)


def critical_distance(n: int, alpha: float = THRESHOLD) -> float | None:
    """Smallest KS distance D that two samples of n rows each need to differ at level alpha.

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
    """P(D >= steps / n) for two samples of n rows each from one distribution; the formula stands above."""
    whole = math.comb(2 * n, n)
    terms = [math.comb(2 * n, n - j * steps) for j in range(1, n // steps + 1)]
    return min(1.0, 2 * (sum(terms[::2]) - sum(terms[1::2])) / whole)


def _judge_forgetting(
    target: BenchmarkResult | None,
    unlearned: BenchmarkResult,
    retain_model: BenchmarkResult | None,
    threshold: float,
) -> tuple[bool | None, Side, list[str]]:
    quality = unlearned.headlines.get("forget_quality", Value.missing("a benchmark that measures forget quality"))
    side, facts = _side_of_retain_model(unlearned, retain_model)
    if quality.point is None:
        return None, side, [f"Forget quality cannot be computed: needs {quality.needs}.", *facts]
    before = target.headlines.get("forget_quality") if target else None
    reasons = [_test_in_words(quality, threshold), *_power(quality, threshold)]
    if before is not None and before.point is not None and before.point > threshold:
        reasons.append(
            "The test cannot tell even the target from the retain model (forget quality "
            f"{format_point(before)} before "
            "unlearning), so passing it says nothing about forgetting."
        )
        return None, side, reasons + facts
    if quality.point > threshold and quality.low is not None and quality.low <= threshold:
        reasons.append(f"The interval of forget quality {format_interval(quality)} reaches below {threshold:g}.")
    return quality.point > threshold, side, reasons + facts


def _test_in_words(quality: Value, threshold: float) -> str:
    assert quality.point is not None
    distance = quality.extra.get("ks")
    size = f", KS distance D = {format_number(distance)}" if distance is not None else ""
    can = "cannot tell" if quality.point > threshold else "tells"
    return (
        f"Forget quality {format_point(quality)}{size}: the test {can} the unlearned model from the "
        "retain model "
        f"(threshold {threshold:g}, {quality.n} questions)."
    )


def _power(quality: Value, threshold: float) -> list[str]:
    if quality.n < 1:
        return []
    critical = critical_distance(quality.n, threshold)
    if critical is None:
        return [f"With {quality.n} questions this test cannot find any difference at all."]
    return [
        f"With {quality.n} questions the test finds a difference only from D = {format_number(critical)} on; "
        "a smaller one goes unseen."
    ]


def _side_of_retain_model(unlearned: BenchmarkResult, retain_model: BenchmarkResult | None) -> tuple[Side, list[str]]:
    if retain_model is None:
        return "unknown", []
    for key, what in (("forget/probability", "probability"), ("forget/rouge_l_recall", "ROUGE-L recall")):
        ours, theirs = unlearned.metrics.get(key), retain_model.metrics.get(key)
        if ours is None or theirs is None or ours.point is None or theirs.point is None:
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
            f"The forget answers' {what} is {format_point(ours)}, the retain model's {format_point(theirs)}: {meaning}."
        ]
    return "unknown", []


def _judge_utility(
    target: BenchmarkResult | None, unlearned: BenchmarkResult, kept_fraction: float
) -> tuple[bool | None, list[str]]:
    lacking = Value.missing("a benchmark that measures model utility")
    after = unlearned.headlines.get("model_utility", lacking)
    before = target.headlines.get("model_utility", lacking) if target else Value.missing("the target's evaluation")
    for value, whose in ((after, "unlearned model's"), (before, "target's")):
        if value.point is None:
            return None, [f"The {whose} utility cannot be computed: needs {value.needs}."]
    assert after.point is not None
    assert before.point is not None
    if before.point <= 0:
        return None, ["The target's utility is 0, so there was none to keep."]
    floor = kept_fraction * before.point
    kept = after.point >= floor
    reasons = [
        f"Model utility {format_point(after)} against the target's {format_point(before)}: "
        f"{after.point / before.point:.0%} (kept means at least {kept_fraction:.0%})."
    ]
    if after.low is not None and after.high is not None and after.low < floor <= after.high:
        reasons.append(
            f"The interval of model utility {format_interval(after)} spans the limit {format_number(floor)}: "
            "more questions could turn this part of the verdict."
        )
    return kept, reasons


def _opening(forgot: bool | None, side: Side, kept: bool | None) -> str:
    utility = {True: "utility kept", False: "utility lost", None: "utility cannot be judged"}[kept]
    if forgot:
        return f"Forgotten as far as this test can see, {'but ' if kept is False else ''}{utility}"
    if forgot is None:
        return f"Whether it forgot cannot be said, {utility}"
    start = {
        "above": "Not forgotten",
        "below": "Unlearned too far (less is left than in a model that never knew)",
        "alike": "Not like a model that never saw the forget set",
        "unknown": "Not like a model that never saw the forget set",
    }[side]
    return f"{start}, {utility}"


def _numbers(target: BenchmarkResult | None, unlearned: BenchmarkResult) -> str:
    quality = unlearned.headlines.get("forget_quality")
    utility = unlearned.headlines.get("model_utility")
    before = target.headlines.get("model_utility") if target else None
    parts = []
    if quality is None or quality.point is None:
        parts.append(f"forget quality needs {quality.needs if quality else 'a benchmark that measures it'}")
    else:
        parts.append(f"forget quality {format_point(quality)} on {quality.n} questions")
    if utility is None or utility.point is None:
        parts.append(f"model utility needs {utility.needs if utility else 'a benchmark that measures it'}")
    elif before is not None and before.point is not None:
        parts.append(f"model utility {format_point(utility)}, before {format_point(before)}")
    else:
        parts.append(f"model utility {format_point(utility)}")
    return "; ".join(parts)
