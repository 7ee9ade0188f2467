"""The unlearning depth score, from the effects of patching."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def unlearning_depth(source_retain: ArrayLike, source: ArrayLike, threshold: float) -> Floats:
    """Compute how much of the knowledge in the target's layers a model lacks, UDS.

    Formula: UDS = sum_l D1_l clip(D2_l / D1_l, 0, 1) / sum_l D1_l, over the layers with D1_l > tau, where D1_l is the
    mean loss of log-probability when hidden states of the retain model replace those of the target in layer l, and D2_l
    the same with hidden states of the measured model. 0: the target still predicts the answer from its hidden states;
    1: the answer is lost as with the retain model.

    Args:
        source_retain: (n, layers) D1 of each row.
        source: (n, layers) D2 of each row.
        threshold: tau, above 0.

    Returns:
        (n,) UDS of each row; NaN if no layer of a row is above the threshold.

    References:
        Lee, Kim & Jo 2026, arXiv:2605.24614, equations 1-6.

    Example:
        >>> unlearning_depth([[0.01, 1.0, 3.0]], [[0.5, 0.5, 6.0]], 0.05).tolist()
        [0.875]
    """
    first, second = np.asarray(source_retain, dtype=np.float64), np.asarray(source, dtype=np.float64)
    weights = np.where(first > threshold, first, 0.0)
    total = weights.sum(axis=-1)
    # min(D2, D1) is D1 clip(D2 / D1, 0, 1) without a division, so that D2 = D1 gives exactly 1.
    lost = np.where(weights > 0, np.clip(second, 0.0, weights), 0.0).sum(axis=-1)
    scores: Floats = np.divide(lost, total, out=np.full(total.shape, np.nan), where=total > 0)
    return scores
