"""Leak rates with intervals, paired comparisons between models, and their plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.audits.base import AUDITED
from expunge.metrics.intervals import wilson
from expunge.metrics.leakage import mcnemar
from expunge.records import ROLE_NAMES, Comparison, Value

Verdicts = Mapping[str, bool | None]
"""Row -> whether it leaks; None where that could not be said."""
KNOWS, NEVER_KNEW = ("target",), ("retain", "base")


def leak_value(name: str, verdicts: Verdicts, threshold: float) -> Value:
    """Share of leaking rows with Wilson's interval; rows without a verdict are counted as missing."""
    judged = [leaks for leaks in verdicts.values() if leaks is not None]
    if not judged:
        return Value.missing("rows that this way of asking applies to and that fit the model's context")
    low, high = wilson(sum(judged), len(judged))
    how = "rows whose true answer is likelier, per token, than every wrong one"
    if name != "multiple_choice":
        how = f"rows of which the response says at least {threshold:g} of what the prompt does not"
    return Value(
        point=sum(judged) / len(judged),
        low=low,
        high=high,
        n=len(judged),
        n_missing=len(verdicts) - len(judged),
        how=f"share of {how}; Wilson interval, rows taken as independent",
        better="retain",
    )


def compare(name: str, audited: Verdicts, control: Verdicts, arm: str, level: float) -> Comparison | None:
    """McNemar's exact test on the rows that both models were judged on; None without such rows."""
    both = [
        (audited[row], control[row]) for row in audited if audited[row] is not None and control.get(row) is not None
    ]
    if not both:
        return None
    only_audited = sum(bool(one) and not other for one, other in both)
    only_control = sum(bool(other) and not one for one, other in both)
    p_value = mcnemar(only_audited, only_control)
    ours, theirs = (sum(bool(pair[side]) for pair in both) / len(both) for side in (0, 1))
    significant = p_value < level
    way = (
        f"{'less' if ours < theirs else 'more'}, and significantly so"
        if significant
        else "not a significant difference"
    )
    return Comparison(
        name=name,
        control=arm,
        audited_value=ours,
        control_value=theirs,
        n=len(both),
        p_value=p_value,
        significant=significant,
        sentence=f"{ours:.1%} against {theirs:.1%} of the {ROLE_NAMES[arm]} at n = {len(both)}: {way} "
        f"(McNemar p = {p_value:.2g}, level {level:g}).",
    )


def describe(numbers: Mapping[str, Mapping[str, Verdicts]], comparisons: Sequence[Comparison]) -> str:
    """The audit in a few plain sentences: the main number against its controls, then all ways together."""
    main = next(iter(numbers))
    sentences = [f"{main}: {found.sentence}" for found in comparisons if found.name == main]
    if not sentences:
        judged = [leaks for leaks in numbers[main][AUDITED].values() if leaks is not None]
        rate = f"{sum(judged) / len(judged):.1%} of {len(judged)} rows" if judged else "no row could be judged"
        sentences = [f"{main}: {rate}; without a control, nobody can say whether that is much."]
    for group, text in ((NEVER_KNEW, "more than the {} does, which never knew"), (KNOWS, "less than the {}")):
        for arm in group:
            tried = [found for found in comparisons if found.control == arm]
            if not tried:
                continue
            sign = 1 if arm in NEVER_KNEW else -1
            hits = [f.name for f in tried if f.significant and sign * (f.audited_value - f.control_value) > 0]
            names = f": {', '.join(hits)}" if hits else ""
            sentences.append(
                f"In {len(hits)} of {len(tried)} ways of asking it gives away significantly "
                f"{text.format(ROLE_NAMES[arm])}{names}."
            )
    return " ".join(sentences)
