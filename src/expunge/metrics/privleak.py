"""PrivLeak: does unlearning leave the forget set looking more, or less, known than it does to a retain-only model?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import metric
from expunge.metrics.separation import NEEDS_HOLDOUT, Comparison, Scored, resampled_auc
from expunge.records import Value

Floats = NDArray[np.float64]

NEEDS_REFERENCE = "membership scores of a retain-only model on the same rows: model.reference=..."


@metric(unit="%", better="reference", range=(-100.0, float("inf")))
def privleak(auc: float, reference_auc: float) -> float:
    """Change of the membership AUC against a retain-only model, in percent; 0 is right.

    Formula: (A_u - A_r) / A_r x 100, with A = 1 - AUC: MUSE's A counts how often a forget row looks newer than a
    holdout row. -100: the forget set still looks known. Above 0: it looks newer than to a model that never saw it.
    OpenUnlearning's is the same number, but for 1e-10 in the denominator and a reference of 1/2 where it has none.

    Args:
        auc: `membership_auc` of the Min-40% score under the unlearned model.
        reference_auc: The same under the retain-only model, below 1. (MUSE's published A_r is 1 minus this:
            .4772 for News, .5393 for Books.)

    Returns:
        Percent.

    Raises:
        ValueError: An AUC is outside 0 to 1, or the reference's is 1.

    References:
        Shi et al. 2024, arXiv:2407.06460, criterion C3 (PrivLeak), and the authors' code.
    """
    if not (0 <= auc <= 1 and 0 <= reference_auc < 1):
        raise ValueError(f"AUCs lie between 0 and 1, the reference's below 1; got {auc} and {reference_auc}")
    return float(_relative(np.array([auc]), np.array([reference_auc]))[0])


def privleak_value(
    forget: Scored,
    holdout: Scored | None,
    reference: tuple[Scored, Scored] | float | None,
    resamples: int,
    seed: int,
    score: str = "Min-40%",
) -> Value:
    """PrivLeak with its interval; without a reference it says so.

    Args:
        forget: Min-40% scores of the forget set under the unlearned model.
        holdout: The same of the holdout set, or None.
        reference: Scores of the same forget and holdout rows, in the same order, under the retain-only model, which
            are then drawn together with the model's; or its AUC as published (`reference_auc` of `privleak`), which
            is then taken as exact; or None.
        resamples: Bootstrap resamples; 0 for no interval.
        seed: Seed of the bootstrap.
        score: What the score is called, for people; papers use Min-40%.

    Raises:
        ValueError: The reference has other rows.
    """
    if holdout is None:
        return Value.missing(NEEDS_HOLDOUT)
    if reference is None:
        return Value.missing(NEEDS_REFERENCE)
    pairs = reference if isinstance(reference, tuple) else (forget, holdout)
    ours, theirs = zip(_both(forget, pairs[0]), _both(holdout, pairs[1]), strict=True)
    measure = Comparison(*ours, resamples=resamples, seed=seed)
    num_missing = len(forget.groups) + len(holdout.groups) - measure.num_rows
    if not measure.complete:
        needs = f"{score} scores of forget and of holdout rows under both models"
        return Value(point=None, n_missing=num_missing, needs=needs)

    def reference_auc(*weights: Floats) -> Floats:
        if not isinstance(reference, tuple):
            return np.full(len(weights[0]), reference)
        return resampled_auc(theirs[0].scores, theirs[1].scores, *weights)

    def statistic(*weights: Floats) -> Floats:
        return _relative(resampled_auc(ours[0].scores, ours[1].scores, *weights), reference_auc(*weights))

    at_reference = float(reference_auc(*(np.ones((1, len(side.groups))) for side in ours))[0])
    if at_reference == 1:
        return Value.missing("a reference that holds at least one forget row for newer than a holdout row")
    how = f"(A_u - A_r) / A_r in percent, A = 1 - AUC of the {score} score, A_r = {1 - at_reference:.4f}"
    how += " of the retain-only model" if isinstance(reference, tuple) else " as published"
    return measure.make(statistic, how, privleak.spec.better, num_missing, privleak.spec.unit)


def _relative(auc: Floats, reference_auc: Floats) -> Floats:
    # A draw in which the reference tells the sets apart entirely has no PrivLeak and is left out of the interval.
    base = np.where(reference_auc < 1, 1 - reference_auc, np.nan)
    return np.asarray((reference_auc - auc) / base * 100, dtype=np.float64)


def _both(ours: Scored, theirs: Scored) -> tuple[Scored, Scored]:
    """The rows that both models could score."""
    if list(ours.groups) != list(theirs.groups):
        raise ValueError("model and reference have to be scored on the same rows in the same order")
    kept = ~(np.isnan(ours.scores) | np.isnan(theirs.scores))
    groups = [group for group, keep in zip(ours.groups, kept, strict=True) if keep]
    return Scored(ours.scores[kept], groups), Scored(theirs.scores[kept], groups)
