"""The verdict of a run: the judgements of all its benchmarks in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.records import Conclusion, Judgement, Verdict

FORGETTING_UNKNOWN = Conclusion(outcome="inconclusive", phrase="Whether it forgot cannot be concluded")
UTILITY_UNKNOWN = Conclusion(outcome="inconclusive", phrase="utility cannot be judged")


def combine(judgements: Sequence[Judgement]) -> Verdict:
    """Combine judgements: a run forgot (or kept the rest) only if every benchmark that measures it concludes so.

    One benchmark that concludes the opposite decides; without one, an inconclusive benchmark leaves the question open.

    Args:
        judgements: One per benchmark, in the recipe's order.
    """
    forgetting = [(judgement, judgement.forgetting) for judgement in judgements if judgement.forgetting is not None]
    utility = [(judgement, judgement.utility) for judgement in judgements if judgement.utility is not None]
    forgot = _all_yes([conclusion for _, conclusion in forgetting])
    kept = _all_yes([conclusion for _, conclusion in utility])
    opening = _phrases(forgetting) or FORGETTING_UNKNOWN.phrase
    but = "but " if forgot and kept is False else ""
    metrics = "; ".join(judgement.metrics for judgement in judgements if judgement.metrics)
    reasons = [
        reason if len(judgements) == 1 else f"{judgement.title}: {reason}"
        for judgement in judgements
        for reason in judgement.reasons
    ]
    if not forgetting:
        reasons.append("No benchmark of this run measures forgetting.")
    if not utility:
        reasons.append("No benchmark of this run measures what should be kept.")
    return Verdict(
        forgot=forgot,
        kept=kept,
        sentence=f"{opening}, {but}{_phrases(utility) or UTILITY_UNKNOWN.phrase}{f': {metrics}' if metrics else ''}.",
        reasons=reasons,
        judgements=list(judgements),
    )


def _all_yes(conclusions: Sequence[Conclusion]) -> bool | None:
    outcomes = {conclusion.outcome for conclusion in conclusions}
    if outcomes & {"no", "partly"}:
        return False
    return True if outcomes == {"yes"} else None


def _phrases(conclusions: Sequence[tuple[Judgement, Conclusion]]) -> str:
    if len(conclusions) == 1:
        return conclusions[0][1].phrase
    return "; ".join(f"{conclusion.phrase} ({judgement.title})" for judgement, conclusion in conclusions)
