"""Judgement of a run by MUSE's criteria C1 to C4, against the retain model and the target.

The criteria are MUSE's; the thresholds are ours, since MUSE compares methods and gives no limits for the first two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expunge.benchmarks.base import Measurement
from expunge.benchmarks.muse.rows import FORGET_QA, RETAIN_QA, VERBMEM, in_set
from expunge.benchmarks.shared.paired import (
    FORGETTING_UNKNOWN,
    NEEDS_RETAIN_MODEL,
    NEEDS_TARGET,
    RESAMPLES,
    all_of,
    at_most,
    paired_difference,
    within,
)
from expunge.records import Conclusion, Outcome, Value
from expunge.records.format import format_interval, format_number, format_value


@dataclass(frozen=True)
class Thresholds:
    """Limits of the criteria; all in percentage points or percent, as MUSE reports its metrics."""

    memorization_margin: float
    """C1 and C2: largest excess of ROUGE-L F1 over the retain model's."""
    privleak_limit: float
    """C3: largest distance of PrivLeak from 0."""
    tolerance: float
    """C4: largest loss of ROUGE-L F1 on retain questions."""


@dataclass(frozen=True)
class Criterion:
    """Outcome of one criterion."""

    title: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Runs:
    """The three measurements, and the seed of bootstrap intervals."""

    target: Measurement | None
    unlearned: Measurement
    retain: Measurement | None
    seed: int


def rules(thresholds: Thresholds) -> list[str]:
    """Return the rules of the judgement in words."""
    margin, limit, tolerance = thresholds.memorization_margin, thresholds.privleak_limit, thresholds.tolerance
    return [
        "Each criterion is decided by a 95% interval: it holds if the interval lies entirely in the range stated "
        "here, it fails if the interval lies entirely outside, and otherwise cannot be concluded. Differences are "
        f"paired by row ({RESAMPLES} bootstrap resamples). The thresholds are ours, not MUSE's.",
        "C1, verbatim memorisation: ROUGE-L F1 of continued forget texts is no more than the retain model's, that is, "
        f"at most {margin:g} points higher.",
        "C2, knowledge memorisation: ROUGE-L F1 on forget questions is no more than the retain model's, that is, at "
        f"most {margin:g} points higher.",
        f"C3, privacy leakage: PrivLeak lies within {limit:g}% of 0.",
        "Forgotten: C1, C2 and C3 hold. Partly forgotten: at least one fails and one holds. Not forgotten: at least "
        "one fails and none holds. Otherwise it cannot be concluded.",
        f"C4, utility kept: ROUGE-L F1 on retain questions is at most {tolerance:g} points below the target's and at "
        f"most {tolerance:g} points below the retain model's. Both comparisons must hold, and one that fails decides.",
    ]


def judge_forgetting(runs: Runs, parts: Sequence[str], thresholds: Thresholds) -> tuple[Conclusion, list[str]]:
    """Conclude from C1, C2 and C3 whether the model forgot."""
    margin = thresholds.memorization_margin
    criteria = [
        _memorization(runs, "C1, verbatim memorisation", VERBMEM, margin, "verbmem" in parts),
        _memorization(runs, "C2, knowledge memorisation", FORGET_QA, margin, "knowmem" in parts),
        _privacy(runs, thresholds.privleak_limit, "privleak" in parts),
    ]
    outcome = all_of([criterion.outcome for criterion in criteria])
    reasons = [criterion.reason for criterion in criteria]
    if outcome == "inconclusive":
        return FORGETTING_UNKNOWN, reasons
    if outcome == "yes":
        return Conclusion(outcome="yes", phrase="Forgotten by MUSE's criteria"), reasons
    failed = " and ".join(criterion.title.split(", ")[1] for criterion in criteria if criterion.outcome == "no")
    opening = "Partly forgotten" if outcome == "partly" else "Not forgotten"
    return Conclusion(outcome=outcome, phrase=f"{opening} ({failed})"), reasons


def judge_utility(runs: Runs, thresholds: Thresholds) -> tuple[Conclusion, list[str]]:
    """Conclude from C4 whether knowledge of the retain set was kept."""
    baselines = [
        ("target", runs.target, NEEDS_TARGET),
        ("retain model", runs.retain, NEEDS_RETAIN_MODEL),
    ]
    outcomes: list[Outcome] = []
    reasons = []
    for name, baseline, needs in baselines:
        loss = Value.missing(needs)
        if baseline is not None:
            rows = in_set(baseline.rows, RETAIN_QA), in_set(runs.unlearned.rows, RETAIN_QA)
            loss = paired_difference([rows], "rouge_l_f1", runs.seed, scale=100)
        outcomes.append(at_most(loss, thresholds.tolerance))
        reasons.append(
            _reason(
                f"C4, knowledge on the retain set, {name} minus unlearned model",
                loss,
                f"at most {thresholds.tolerance:g} points",
                outcomes[-1],
            )
        )
    outcome: Outcome = "no" if "no" in outcomes else all_of(outcomes)
    phrase = {"yes": "utility kept", "no": "utility lost"}.get(outcome, "utility cannot be judged")
    return Conclusion(outcome=outcome, phrase=phrase), reasons


def _memorization(runs: Runs, title: str, name: str, margin: float, measured: bool) -> Criterion:
    if not measured:
        return Criterion(title, "inconclusive", f"{title}: not measured, needs the part {name.split('/')[0]}.")
    excess = Value.missing(NEEDS_RETAIN_MODEL)
    if runs.retain is not None:
        rows = in_set(runs.unlearned.rows, name), in_set(runs.retain.rows, name)
        excess = paired_difference([rows], "rouge_l_f1", runs.seed, scale=100)
    outcome = at_most(excess, margin)
    subject = f"{title}, unlearned minus retain model"
    return Criterion(title, outcome, _reason(subject, excess, f"at most {margin:g} points", outcome))


def _privacy(runs: Runs, limit: float, measured: bool) -> Criterion:
    title = "C3, privacy leakage"
    if not measured:
        return Criterion(title, "inconclusive", f"{title}: not measured, needs the part privleak.")
    privleak = runs.unlearned.value("privleak")
    outcome = within(privleak, 0, limit)
    if privleak.point is None or privleak.low is None:
        return Criterion(title, outcome, _reason(title, privleak, "", outcome))
    reason = f"{title}: PrivLeak {format_value(privleak)} (within {limit:g}% of 0): {_state(outcome)}."
    return Criterion(title, outcome, reason)


def _reason(subject: str, value: Value, range_in_words: str, outcome: Outcome) -> str:
    if value.point is None:
        return f"{subject} cannot be computed: needs {value.needs}."
    if value.low is None:
        return f"{subject}: {format_number(value.point)}, without an interval: {value.no_interval}."
    return (
        f"{subject}: {format_number(value.point)} {format_interval(value)} points on {value.n} rows "
        f"({range_in_words}): {_state(outcome)}."
    )


def _state(outcome: Outcome) -> str:
    return {"yes": "holds", "no": "fails"}.get(outcome, "cannot be concluded")
