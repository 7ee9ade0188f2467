"""Membership scores: whether a model looks as if it had been trained on a text.

Every score is high for a text that looks new to the model and low for a text that it was trained on, as in
OpenUnlearning. `expunge.metrics.separation` compares the scores of the forget set with those of a holdout set.

`nll` is the mean negative log-likelihood per answer token including the end-of-sequence token, as in
`expunge.metrics.probability`. Per-token arrays (`logp`, `mean`, `variance`) exclude that token.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]

_MIN_VARIANCE = 1e-6
"""Floor for the variance, which is 0 up to rounding where the model is certain; the same as in OpenUnlearning."""


@metric(unit="nats", better="retain", range=(0.0, float("inf")), needs=("nll",))
def membership_loss(nll: ArrayLike) -> Floats:
    """Return the mean loss as a membership score, per row (LOSS).

    Args:
        nll: Shape (n,).

    Returns:
        Shape (n,).

    References:
        Yeom et al. 2018, arXiv:1709.01604 (an adversary with a threshold on the loss).
    """
    return _vector(nll, "nll")


@metric(unit="nats per byte", better="retain", range=(0.0, float("inf")), needs=("nll", "answer"))
def membership_zlib(nll: ArrayLike, texts: Sequence[str]) -> Floats:
    """Compute the mean loss divided by the size of the compressed text, per row (zlib).

    Repetitive texts have a low loss even if they were not memorised, and a small compressed size that compensates.

    Formula: nll / len(zlib(text)), text as UTF-8. Carlini et al. divide logarithms of perplexity in the same way.

    Args:
        nll: Shape (n,).
        texts: The answers that `nll` belongs to, n strings.

    Returns:
        Shape (n,).

    Raises:
        ValueError: The numbers of texts and losses differ.

    References:
        Carlini et al. 2021, arXiv:2012.07805, section 5 (zlib).
    """
    sizes = np.array([len(zlib.compress(text.encode())) for text in texts], dtype=np.float64)
    return _vector(nll, "nll") / _same_length(sizes, nll)


@metric(unit="nats", better="retain", range=(float("-inf"), float("inf")))
def membership_reference(nll: ArrayLike, retain_model_nll: ArrayLike) -> Floats:
    """Compute the mean loss minus that of a model that never saw the text, per row (reference attack).

    Formula: nll - retain_model_nll.

    Args:
        nll: Mean loss under the evaluated model, shape (n,).
        retain_model_nll: Mean loss under the retain model, shape (n,).

    Returns:
        Shape (n,).

    Raises:
        ValueError: The numbers of losses differ.

    References:
        Carlini et al. 2021, arXiv:2012.07805, section 5 (comparison with another model); the difference as in
        OpenUnlearning, where Carlini et al. take a ratio.
    """
    return _vector(nll, "nll") - _same_length(_vector(retain_model_nll, "retain_model_nll"), nll)


@metric(unit="nats", better="retain", range=(0.0, float("inf")))
def membership_min_k(logp: Sequence[ArrayLike], k: float = 0.4) -> Floats:
    """Compute the mean negative log-probability of the least likely tokens, per row (Min-K%).

    Formula: -(1/m) sum of the m lowest log p(y_t | y_<t), m = max(1, floor(k n)). (MUSE's code has no max; there,
    texts shorter than 1/k tokens have no score.)

    Args:
        logp: Log-probability of each token of each row, n values, without the end-of-sequence token.
        k: Share of the tokens, above 0 and at most 1. OpenUnlearning and MUSE's PrivLeak use 0.4.

    Returns:
        One value per row; NaN for a row without tokens.

    Raises:
        ValueError: k is not above 0 and at most 1.

    References:
        Shi et al. 2024, arXiv:2310.16789, equation 1.
    """
    return np.array([-_mean_of_lowest(row, k) for row in _vectors(logp, "logp")], dtype=np.float64)


@metric(better="retain", range=(float("-inf"), float("inf")))
def membership_min_k_plus(
    logp: Sequence[ArrayLike], mean: Sequence[ArrayLike], variance: Sequence[ArrayLike], k: float = 0.4
) -> Floats:
    """Compute Min-K% of log-probabilities standardised by the model's predicted distribution, per row (Min-K%++).

    Formula: -(1/m) sum of the m lowest z_t = (log p(y_t | y_<t) - mu_t) / sigma_t, where mu_t and sigma_t^2 are mean
    and variance of log p(v | y_<t) over v sampled from the model; sigma_t^2 is at least 1e-6.

    Args:
        logp: As in `membership_min_k`.
        mean: mu of each token, the same shapes.
        variance: sigma^2 of each token, the same shapes.
        k: As in `membership_min_k`.

    Returns:
        One value per row; NaN for a row without tokens.

    Raises:
        ValueError: The shapes differ, or k is not above 0 and at most 1.

    References:
        Zhang et al. 2024, arXiv:2404.02936, section 3 (Min-K%++).
    """
    scores = []
    for row_logp, row_mean, row_variance in zip(
        _vectors(logp, "logp"), _vectors(mean, "mean"), _vectors(variance, "variance"), strict=True
    ):
        if not row_logp.shape == row_mean.shape == row_variance.shape:
            raise ValueError(
                "logp, mean and variance of a row differ in shape: "
                f"{row_logp.shape}, {row_mean.shape}, {row_variance.shape}"
            )
        z = (row_logp - row_mean) / np.sqrt(np.maximum(row_variance, _MIN_VARIANCE))
        scores.append(-_mean_of_lowest(z, k))
    return np.array(scores, dtype=np.float64)


@metric(better="retain", range=(0.0, float("inf")), needs=("gradient_norm",))
def membership_gradient_norm(norms: ArrayLike) -> Floats:
    """Return the gradient norm of the loss as a membership score, per row.

    A small norm means that training on the text would hardly change the model.

    Args:
        norms: 2-norm of the gradient of the row's `nll`, averaged over the weight tensors, shape (n,).

    Returns:
        Shape (n,), the norms.

    Raises:
        ValueError: A norm is negative.

    References:
        Wang et al. 2024, arXiv:2402.17012 (gradient norms); the mean over tensors as in OpenUnlearning.
    """
    values = _vector(norms, "norms")
    if (values < 0).any():
        raise ValueError("norms contains a negative value")
    return values


def _mean_of_lowest(values: Floats, k: float) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k must be a share of the tokens above 0 and at most 1, got {k}")
    if not len(values):
        return float("nan")
    return float(np.sort(values)[: max(1, int(k * len(values)))].mean())


def _vectors(rows: Sequence[ArrayLike], name: str) -> list[Floats]:
    return [_vector(row, f"a row of {name}") for row in rows]


def _vector(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array


def _same_length(values: Floats, nll: ArrayLike) -> Floats:
    if values.shape != np.shape(nll):
        raise ValueError(f"expected as many values as losses, got {len(values)} values for shape {np.shape(nll)}")
    return values
