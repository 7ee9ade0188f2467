"""PrivLeak: whether the forget set looks more or less familiar to the unlearned model than to a retain model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import metric
from expunge.metrics.separation import NEEDS_HOLDOUT, Scored, TwoSetBootstrap, resampled_auc
from expunge.records import Value

Floats = NDArray[np.float64]

NEEDS_RETAIN_MODEL = "membership scores of a retain model on the same rows; set model.retain_model=..."


@metric(unit="%", better="retain", range=(-100.0, float("inf")))
def privleak(auc: float, retain_model_auc: float) -> float:
    """Compute the change of the membership AUC relative to a retain model, in percent; 0 is ideal.

    Formula: (A_u - A_r) / A_r x 100, with A = 1 - AUC; MUSE's A is the probability that a forget row looks newer than
    a holdout row. -100: every forget row still looks more familiar than every holdout row. Above 0: the forget set
    looks newer than to a model that never saw it. OpenUnlearning's value is the same, except for 1e-10 in the
    denominator and an AUC of 1/2 if there is no retain model.

    Args:
        auc: `membership_auc` of the Min-40% score under the unlearned model.
        retain_model_auc: The same under the retain model, below 1. (MUSE's published A_r is 1 minus this:
            .4772 for News, .5393 for Books.)

    Returns:
        Percent.

    Raises:
        ValueError: An AUC is not between 0 and 1, or the retain model's is 1.

    References:
        Shi et al. 2024, arXiv:2407.06460, criterion C3 (PrivLeak), and the authors' code.
    """
    if not (0 <= auc <= 1 and 0 <= retain_model_auc < 1):
        raise ValueError(
            f"AUCs must be between 0 and 1 and the retain model's below 1, got {auc} and {retain_model_auc}"
        )
    return float(_relative_change(np.array([auc]), np.array([retain_model_auc]))[0])


def privleak_value(
    forget: Scored,
    holdout: Scored | None,
    retain_model: tuple[Scored, Scored] | float | None,
    resamples: int,
    seed: int,
    score: str = "Min-40%",
) -> Value:
    """Compute PrivLeak with its interval, or state which input is missing.

    Args:
        forget: Min-40% scores of the forget set under the unlearned model.
        holdout: The same of the holdout set, or None.
        retain_model: Scores of the same forget and holdout rows, in the same order, under the retain model, which are
            resampled together with the unlearned model's; or its published AUC (`retain_model_auc` of `privleak`),
            which is treated as exact; or None.
        resamples: Bootstrap resamples; 0 for no interval.
        seed: Seed of the bootstrap.
        score: Display name of the score; papers use Min-40%.

    Raises:
        ValueError: The retain model was scored on other rows.
    """
    if holdout is None:
        return Value.missing(NEEDS_HOLDOUT)
    if retain_model is None:
        return Value.missing(NEEDS_RETAIN_MODEL)
    retain_forget, retain_holdout = retain_model if isinstance(retain_model, tuple) else (forget, holdout)
    unlearned_forget, retain_forget = _present_in_both(forget, retain_forget)
    unlearned_holdout, retain_holdout = _present_in_both(holdout, retain_holdout)
    bootstrap = TwoSetBootstrap(unlearned_forget, unlearned_holdout, resamples, seed)
    num_missing = len(forget.groups) + len(holdout.groups) - bootstrap.num_rows
    if not bootstrap.is_complete:
        needs = f"{score} scores of forget and of holdout rows under both models"
        return Value(point=None, n_missing=num_missing, needs=needs)

    def retain_model_auc(*weights: Floats) -> Floats:
        if not isinstance(retain_model, tuple):
            return np.full(len(weights[0]), retain_model)
        return resampled_auc(retain_forget.scores, retain_holdout.scores, *weights)

    def relative_change(*weights: Floats) -> Floats:
        auc = resampled_auc(unlearned_forget.scores, unlearned_holdout.scores, *weights)
        return _relative_change(auc, retain_model_auc(*weights))

    all_rows = (np.ones((1, len(scored.groups))) for scored in (unlearned_forget, unlearned_holdout))
    retain_auc = float(retain_model_auc(*all_rows)[0])
    if retain_auc == 1:
        return Value.missing("a retain model to which at least one forget row looks newer than a holdout row")
    how = f"(A_u - A_r) / A_r in percent, A = 1 - AUC of the {score} score, A_r = {1 - retain_auc:.4f}"
    how += " of the retain model" if isinstance(retain_model, tuple) else " as published"
    return bootstrap.value(relative_change, how, privleak.spec, num_missing)


def _relative_change(auc: Floats, retain_model_auc: Floats) -> Floats:
    # Resamples that the retain model separates perfectly have no PrivLeak; as NaN they are excluded from the interval.
    base = np.where(retain_model_auc < 1, 1 - retain_model_auc, np.nan)
    return np.asarray((retain_model_auc - auc) / base * 100, dtype=np.float64)


def _present_in_both(first: Scored, second: Scored) -> tuple[Scored, Scored]:
    """Return the rows that have a score under both models."""
    if list(first.groups) != list(second.groups):
        raise ValueError("the model and the retain model must be scored on the same rows in the same order")
    mask = ~(np.isnan(first.scores) | np.isnan(second.scores))
    groups = [group for group, is_present in zip(first.groups, mask, strict=True) if is_present]
    return Scored(first.scores[mask], groups), Scored(second.scores[mask], groups)
