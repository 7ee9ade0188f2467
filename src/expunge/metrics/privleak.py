"""PrivLeak: does unlearning leave the forget set looking more, or less, known than it does to a retain model?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import metric
from expunge.metrics.separation import NEEDS_HOLDOUT, Comparison, Scored, resampled_auc
from expunge.records import Value

Floats = NDArray[np.float64]

NEEDS_RETAIN_MODEL = "membership scores of a retain model on the same rows: model.retain_model=..."


@metric(unit="%", better="retain", range=(-100.0, float("inf")))
def privleak(auc: float, retain_model_auc: float) -> float:
    """Change of the membership AUC against a retain model, in percent; 0 is right.

    Formula: (A_u - A_r) / A_r x 100, with A = 1 - AUC: MUSE's A counts how often a forget row looks newer than a
    holdout row. -100: the forget set still looks known. Above 0: it looks newer than to a model that never saw it.
    OpenUnlearning's is the same number, but for 1e-10 in the denominator and a retain model of 1/2 where it has none.

    Args:
        auc: `membership_auc` of the Min-40% score under the unlearned model.
        retain_model_auc: The same under the retain model, below 1. (MUSE's published A_r is 1 minus this:
            .4772 for News, .5393 for Books.)

    Returns:
        Percent.

    Raises:
        ValueError: An AUC is outside 0 to 1, or the retain model's is 1.

    References:
        Shi et al. 2024, arXiv:2407.06460, criterion C3 (PrivLeak), and the authors' code.
    """
    if not (0 <= auc <= 1 and 0 <= retain_model_auc < 1):
        raise ValueError(f"AUCs lie between 0 and 1, the retain model's below 1; got {auc} and {retain_model_auc}")
    return float(_relative(np.array([auc]), np.array([retain_model_auc]))[0])


def privleak_value(
    forget: Scored,
    holdout: Scored | None,
    retain_model: tuple[Scored, Scored] | float | None,
    resamples: int,
    seed: int,
    score: str = "Min-40%",
) -> Value:
    """PrivLeak with its interval; without a retain model it says so.

    Args:
        forget: Min-40% scores of the forget set under the unlearned model.
        holdout: The same of the holdout set, or None.
        retain_model: Scores of the same forget and holdout rows, in the same order, under the retain model, which
            are then drawn together with the model's; or its AUC as published (`retain_model_auc` of `privleak`), which
            is then taken as exact; or None.
        resamples: Bootstrap resamples; 0 for no interval.
        seed: Seed of the bootstrap.
        score: What the score is called, for people; papers use Min-40%.

    Raises:
        ValueError: The retain model has other rows.
    """
    if holdout is None:
        return Value.missing(NEEDS_HOLDOUT)
    if retain_model is None:
        return Value.missing(NEEDS_RETAIN_MODEL)
    pairs = retain_model if isinstance(retain_model, tuple) else (forget, holdout)
    ours, theirs = zip(_both(forget, pairs[0]), _both(holdout, pairs[1]), strict=True)
    measure = Comparison(*ours, resamples=resamples, seed=seed)
    num_missing = len(forget.groups) + len(holdout.groups) - measure.num_rows
    if not measure.complete:
        needs = f"{score} scores of forget and of holdout rows under both models"
        return Value(point=None, n_missing=num_missing, needs=needs)

    def retain_model_auc(*weights: Floats) -> Floats:
        if not isinstance(retain_model, tuple):
            return np.full(len(weights[0]), retain_model)
        return resampled_auc(theirs[0].scores, theirs[1].scores, *weights)

    def statistic(*weights: Floats) -> Floats:
        return _relative(resampled_auc(ours[0].scores, ours[1].scores, *weights), retain_model_auc(*weights))

    at_retain_model = float(retain_model_auc(*(np.ones((1, len(side.groups))) for side in ours))[0])
    if at_retain_model == 1:
        return Value.missing("a retain model that holds at least one forget row for newer than a holdout row")
    how = f"(A_u - A_r) / A_r in percent, A = 1 - AUC of the {score} score, A_r = {1 - at_retain_model:.4f}"
    how += " of the retain model" if isinstance(retain_model, tuple) else " as published"
    return measure.make(statistic, how, privleak.spec.better, num_missing, privleak.spec.unit)


def _relative(auc: Floats, retain_model_auc: Floats) -> Floats:
    # A draw in which the retain model tells the sets apart entirely has no PrivLeak and is left out of the interval.
    base = np.where(retain_model_auc < 1, 1 - retain_model_auc, np.nan)
    return np.asarray((retain_model_auc - auc) / base * 100, dtype=np.float64)


def _both(ours: Scored, theirs: Scored) -> tuple[Scored, Scored]:
    """The rows that both models could score."""
    if list(ours.groups) != list(theirs.groups):
        raise ValueError("model and retain model have to be scored on the same rows in the same order")
    kept = ~(np.isnan(ours.scores) | np.isnan(theirs.scores))
    groups = [group for group, keep in zip(ours.groups, kept, strict=True) if keep]
    return Scored(ours.scores[kept], groups), Scored(theirs.scores[kept], groups)
