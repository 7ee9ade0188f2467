"""What familiarity supports: for runs without a test against a retain model, how far what a model names has fallen."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.records import BenchmarkResult, Value
from expunge.report.tables import format_interval, format_number, format_point

FALL = 5.0
"""Familiarity before by after, at least, to count as forgotten."""
RISE = 1.1
"""Perplexity on the retain text after by before, at most, to count as kept."""


@dataclass(frozen=True)
class Judgement:
    """What the numbers say, and which they are."""

    forgot: bool | None
    kept: bool | None
    numbers: str
    reasons: list[str]


def rule(fall: float = FALL, rise: float = RISE) -> str:
    """The rule in words."""
    return (
        "By familiarity, where no benchmark measures forget quality. Familiarity is the share of passages of the "
        "forget text after which the model names what only that text has. Forgotten: it fell by a factor of at least "
        f"{fall:g}, and its intervals before and after do not overlap; where they do, it cannot be said. Utility kept: "
        f"perplexity on the retain text is at most {rise:g} times the target's."
    )


def judge(
    target: BenchmarkResult | None, unlearned: BenchmarkResult, fall: float = FALL, rise: float = RISE
) -> Judgement:
    """Compare familiarity and retain perplexity before and after.

    Args:
        target: Result of the benchmark before unlearning.
        unlearned: Result of it afterwards.
        fall: Least factor by which familiarity falls in a model that forgot.
        rise: Largest factor by which the perplexity rises in a model that kept the rest.
    """
    forgot, reasons = _forgot(*_pair(target, unlearned, "familiarity"), fall)
    kept, more = _kept(*_pair(target, unlearned, "retain_perplexity"), rise)
    pairs = {name: _pair(target, unlearned, name) for name in ("familiarity", "retain_perplexity")}
    numbers = "; ".join(f"{name.replace('_', ' ')} {_shown(*pair)}" for name, pair in pairs.items())
    return Judgement(forgot, kept, numbers, reasons + more)


def _pair(target: BenchmarkResult | None, unlearned: BenchmarkResult, name: str) -> tuple[Value, Value]:
    lacking = Value.missing(f"a benchmark that measures {name.replace('_', ' ')}")
    before = target.headlines.get(name, lacking) if target else Value.missing("the target's evaluation")
    return before, unlearned.headlines.get(name, lacking)


def _forgot(before: Value, after: Value, fall: float) -> tuple[bool | None, list[str]]:
    for value, whose in ((after, "unlearned model's"), (before, "target's")):
        if value.point is None:
            return None, [f"The {whose} familiarity cannot be computed: needs {value.needs}."]
    assert before.point is not None
    assert after.point is not None
    if before.point == 0:
        return None, ["The target names nothing of the forget text in these passages, so there was nothing to forget."]
    factor = f"by a factor of {format_number(before.point / after.point)}" if after.point else "to nothing"
    reasons = [
        f"Familiarity fell {factor} (forgotten means at least {fall:g}, {after.n} passages)."
        if after.point < before.point
        else f"Familiarity did not fall ({format_point(before)} before, {format_point(after)} after)."
    ]
    if before.point < fall * after.point:
        return False, reasons
    if before.low is not None and after.high is not None and after.high >= before.low:
        overlap = f"Its intervals overlap, {format_interval(before)} before and {format_interval(after)} after: "
        return None, [*reasons, f"{overlap}too few passages to say that it fell."]
    if before.low is not None and after.high is not None and before.low < fall * after.high:
        reasons.append(
            f"The intervals, {format_interval(before)} before and {format_interval(after)} after, also allow a factor "
            f"below {fall:g}: more passages could turn this part of the verdict."
        )
    return True, reasons


def _kept(before: Value, after: Value, rise: float) -> tuple[bool | None, list[str]]:
    for value, whose in ((after, "unlearned model's"), (before, "target's")):
        if value.point is None:
            return None, [f"The {whose} perplexity on the retain text cannot be computed: needs {value.needs}."]
    assert before.point is not None
    assert after.point is not None
    limit = rise * before.point
    return after.point <= limit, [
        f"Perplexity on the retain text is {format_number(after.point / before.point)} times the target's (kept means "
        f"at most {rise:g})."
    ]


def _shown(before: Value, after: Value) -> str:
    if after.point is None:
        return f"needs {after.needs}"
    return format_point(after) + (f", before {format_point(before)}" if before.point is not None else "")
