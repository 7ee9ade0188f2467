"""Leak rates with intervals, paired comparisons between models, and a verdict in words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from expunge.audits.base import AUDITED
from expunge.metrics.permutation import sign_flip_pvalue, smallest_swap_pvalue
from expunge.metrics.proportions import proportion_interval
from expunge.records import ROLE_NAMES, Comparison, Value

Outcomes = Mapping[str, bool | None]
"""Row -> whether it leaks; None where this could not be judged."""
Groups = Mapping[str, Hashable]
"""Row -> its group, such as the person whom it is about."""
KNOWS, NEVER_KNEW = ("target",), ("retain", "base")


def leak_value(name: str, outcomes: Outcomes, groups: Groups, threshold: float) -> Value:
    """Return the share of leaking rows with its interval; rows that could not be judged count as missing."""
    judged = {row: leaks for row, leaks in outcomes.items() if leaks is not None}
    if not judged:
        return Value.missing("rows that this prompt applies to and that fit the model's context")
    how = "rows whose true answer is more probable, per token, than every wrong one"
    if name != "multiple_choice":
        how = f"rows whose response contains at least {threshold:g} of the novel words of the answer"
    value = Value(
        point=sum(judged.values()) / len(judged),
        n=len(judged),
        n_missing=len(outcomes) - len(judged),
        how=f"share of {how}",
        better="retain",
    )
    return proportion_interval(list(judged.values()), [groups[row] for row in judged]).attach(value)


def compare(
    name: str, audited: Outcomes, control: Outcomes, groups: Groups, arm: str, level: float
) -> Comparison | None:
    """Compare two models on the rows judged for both, by swaps of the models in whole groups (`sign_flip_pvalue`).

    With G groups no p-value is below 2^(1 - G). If that is not below `level`, no outcome could be significant, and the
    comparison has no p-value.

    Returns:
        The comparison; None without rows judged for both models.
    """
    pairs = {
        row: (bool(leaks), bool(control[row]))
        for row, leaks in audited.items()
        if leaks is not None and control.get(row) is not None
    }
    if not pairs:
        return None
    row_groups = [groups[row] for row in pairs]
    num_groups = len(set(row_groups))
    ours, theirs = (sum(pair[side] for pair in pairs.values()) / len(pairs) for side in (0, 1))
    smallest = smallest_swap_pvalue(num_groups)
    p_value = None
    if smallest < level:
        p_value = sign_flip_pvalue([one - other for one, other in pairs.values()], row_groups)
    return Comparison(
        name=name,
        control=arm,
        audited_value=ours,
        control_value=theirs,
        n=len(pairs),
        p_value=p_value,
        significant=p_value is not None and p_value < level,
        sentence=f"{ours:.1%} against {theirs:.1%} of the {ROLE_NAMES[arm]} at n = {len(pairs)} in {num_groups} "
        f"group{'' if num_groups == 1 else 's'}: {_conclusion(ours < theirs, p_value, smallest, level)}.",
    )


def _conclusion(is_less: bool, p_value: float | None, smallest: float, level: float) -> str:
    if p_value is None:
        return f"cannot be concluded, as no p-value of so few groups is below {smallest:.2g} (level {level:g})"
    difference = "not a significant difference"
    if p_value < level:
        difference = f"{'less' if is_less else 'more'}, and significantly so"
    return f"{difference} (permutation of groups, p = {p_value:.2g}, level {level:g})"


def describe(outcomes: Mapping[str, Mapping[str, Outcomes]], comparisons: Sequence[Comparison]) -> str:
    """Return the verdict in words: the first prompt against its controls, then all prompts together.

    Comparisons that cannot be concluded are counted separately.
    """
    main = next(iter(outcomes))
    sentences = [f"{main}: {comparison.sentence}" for comparison in comparisons if comparison.name == main]
    if not sentences:
        judged = [leaks for leaks in outcomes[main][AUDITED].values() if leaks is not None]
        rate = f"{sum(judged) / len(judged):.1%} of {len(judged)} rows" if judged else "no row could be judged"
        sentences = [f"{main}: {rate}; no control model was given, so the rate cannot be interpreted."]
    for group, text in ((NEVER_KNEW, "more than the {}, which never saw the forget set"), (KNOWS, "less than the {}")):
        for arm in group:
            with_arm = [comparison for comparison in comparisons if comparison.control == arm]
            against = [comparison for comparison in with_arm if comparison.p_value is not None]
            if len(against) < len(with_arm):
                sentences.append(
                    f"With {len(with_arm) - len(against)} of {len(with_arm)} prompts, whether it reveals "
                    f"{text.format(ROLE_NAMES[arm])} cannot be concluded from so few groups of rows."
                )
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
