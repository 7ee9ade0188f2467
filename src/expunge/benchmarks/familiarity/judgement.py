"""Judgement of a run by the fall of familiarity and the rise of perplexity on the retain text."""

from __future__ import annotations

from expunge.benchmarks.base import Measurement
from expunge.benchmarks.shared.paired import FORGETTING_UNKNOWN, NEEDS_TARGET, UTILITY_UNKNOWN
from expunge.records import Conclusion, Value
from expunge.records.format import format_interval, format_number, format_point

FALL = 5.0
"""Familiarity before by after, at least, to count as forgotten."""
RISE = 1.1
"""Perplexity on the retain text after by before, at most, to count as kept."""

LIMITS = [
    "Familiarity counts the names in the likeliest continuations of some passages. A model may still know what it does "
    "not name there, and no test against a model that never saw the text was made."
]


def rules(fall: float = FALL, rise: float = RISE) -> list[str]:
    """Return the rules of the judgement in words."""
    return [
        "Familiarity is the share of passages of the forget text after which the model names what only that text has. "
        f"Forgotten: it fell by a factor of at least {fall:g}, and its intervals before and after do not overlap; if "
        "they do, it cannot be concluded.",
        f"Utility kept: perplexity on the retain text is at most {rise:g} times the target's.",
    ]


def judge_forgetting(
    target: Measurement | None, unlearned: Measurement, fall: float = FALL
) -> tuple[Conclusion, list[str]]:
    """Conclude whether familiarity fell by a factor of at least `fall`."""
    before, after, missing = _pair(target, unlearned, "familiarity", "familiarity")
    if missing:
        return FORGETTING_UNKNOWN, missing
    assert before.point is not None
    assert after.point is not None
    if before.point == 0:
        return FORGETTING_UNKNOWN, [
            "The target names nothing of the forget text in these passages, so there was nothing to forget."
        ]
    factor = f"by a factor of {format_number(before.point / after.point)}" if after.point else "to nothing"
    reasons = [
        f"Familiarity fell {factor} (forgotten means at least {fall:g}, {after.n} passages)."
        if after.point < before.point
        else f"Familiarity did not fall ({format_point(before)} before, {format_point(after)} after)."
    ]
    if before.point < fall * after.point:
        return Conclusion(outcome="no", phrase="Not forgotten"), reasons
    if before.low is not None and after.high is not None:
        intervals = f"{format_interval(before)} before and {format_interval(after)} after"
        if after.high >= before.low:
            reasons.append(f"Its intervals overlap, {intervals}: too few passages to conclude that it fell.")
            return FORGETTING_UNKNOWN, reasons
        if before.low < fall * after.high:
            reasons.append(
                f"The intervals, {intervals}, also allow a factor below {fall:g}: more passages could change this "
                "conclusion."
            )
    return Conclusion(outcome="yes", phrase="Forgotten as far as this test can see"), reasons


def judge_utility(
    target: Measurement | None, unlearned: Measurement, rise: float = RISE
) -> tuple[Conclusion, list[str]]:
    """Conclude whether the perplexity on the retain text is at most `rise` times the target's."""
    before, after, missing = _pair(target, unlearned, "retain_perplexity", "perplexity on the retain text")
    if missing:
        return UTILITY_UNKNOWN, missing
    assert before.point is not None
    assert after.point is not None
    reasons = [
        f"Perplexity on the retain text is {format_number(after.point / before.point)} times the target's (kept means "
        f"at most {rise:g})."
    ]
    if after.point <= rise * before.point:
        return Conclusion(outcome="yes", phrase="utility kept"), reasons
    return Conclusion(outcome="no", phrase="utility lost"), reasons


def _pair(target: Measurement | None, unlearned: Measurement, name: str, title: str) -> tuple[Value, Value, list[str]]:
    """Return a headline before and after unlearning, and the reason if one of them is missing."""
    before = Value.missing(NEEDS_TARGET) if target is None else target.value(name)
    after = unlearned.value(name)
    for value, model in ((after, "unlearned model's"), (before, "target's")):
        if value.point is None:
            return before, after, [f"The {model} {title} cannot be computed: needs {value.needs}."]
    return before, after, []
