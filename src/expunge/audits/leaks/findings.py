"""Leak rates with intervals, paired comparisons between models, and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.audits.base import AUDITED
from expunge.metrics.intervals import wilson
from expunge.metrics.leakage import mcnemar
from expunge.records import ROLE_NAMES, Comparison, Value

Outcomes = Mapping[str, bool | None]
"""Row -> whether it leaks; None where this could not be judged."""
KNOWS, NEVER_KNEW = ("target",), ("retain", "base")


def leak_value(name: str, outcomes: Outcomes, threshold: float) -> Value:
    """Return the share of leaking rows with Wilson's interval; rows that could not be judged count as missing."""
    judged = [leaks for leaks in outcomes.values() if leaks is not None]
    if not judged:
        return Value.missing("rows that this prompt applies to and that fit the model's context")
    low, high = wilson(sum(judged), len(judged))
    how = "rows whose true answer is more probable, per token, than every wrong one"
    if name != "multiple_choice":
        how = f"rows whose response contains at least {threshold:g} of the novel words of the answer"
    return Value(
        point=sum(judged) / len(judged),
        low=low,
        high=high,
        n=len(judged),
        n_missing=len(outcomes) - len(judged),
        how=f"share of {how}; Wilson interval, rows treated as independent",
        better="retain",
    )


def compare(name: str, audited: Outcomes, control: Outcomes, arm: str, level: float) -> Comparison | None:
    """Compare two models by McNemar's exact test on the rows judged for both; return None without such rows."""
    pairs = [
        (audited[row], control[row]) for row in audited if audited[row] is not None and control.get(row) is not None
    ]
    if not pairs:
        return None
    only_audited = sum(bool(one) and not other for one, other in pairs)
    only_control = sum(bool(other) and not one for one, other in pairs)
    p_value = mcnemar(only_audited, only_control)
    ours, theirs = (sum(bool(pair[side]) for pair in pairs) / len(pairs) for side in (0, 1))
    significant = p_value < level
    direction = "less" if ours < theirs else "more"
    difference = f"{direction}, and significantly so" if significant else "not a significant difference"
    return Comparison(
        name=name,
        control=arm,
        audited_value=ours,
        control_value=theirs,
        n=len(pairs),
        p_value=p_value,
        significant=significant,
        sentence=f"{ours:.1%} against {theirs:.1%} of the {ROLE_NAMES[arm]} at n = {len(pairs)}: {difference} "
        f"(McNemar p = {p_value:.2g}, level {level:g}).",
    )


def describe(outcomes: Mapping[str, Mapping[str, Outcomes]], comparisons: Sequence[Comparison]) -> str:
    """Return the verdict in words: the first prompt against its controls, then all prompts together."""
    main = next(iter(outcomes))
    sentences = [f"{main}: {comparison.sentence}" for comparison in comparisons if comparison.name == main]
    if not sentences:
        judged = [leaks for leaks in outcomes[main][AUDITED].values() if leaks is not None]
        rate = f"{sum(judged) / len(judged):.1%} of {len(judged)} rows" if judged else "no row could be judged"
        sentences = [f"{main}: {rate}; no control model was given, so the rate cannot be interpreted."]
    for group, text in ((NEVER_KNEW, "more than the {}, which never saw the forget set"), (KNOWS, "less than the {}")):
        for arm in group:
            against = [comparison for comparison in comparisons if comparison.control == arm]
            if not against:
                continue
            sign = 1 if arm in NEVER_KNEW else -1
            hits = [f.name for f in against if f.significant and sign * (f.audited_value - f.control_value) > 0]
            names = f": {', '.join(hits)}" if hits else ""
            sentences.append(
                f"With {len(hits)} of {len(against)} prompts it reveals significantly "
                f"{text.format(ROLE_NAMES[arm])}{names}."
            )
    return " ".join(sentences)
