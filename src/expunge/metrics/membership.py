"""Membership scores: does a model look as if it had been trained on a text?

Every score is high for a text that looks new to the model and low for one that it was trained on, as in
OpenUnlearning. `expunge.metrics.separation` compares the scores of the forget set with those of a holdout set.

`nll` is the mean negative log-likelihood per answer token, end-of-sequence token included, as in
`expunge.metrics.probability`. Per-token arrays (`logp`, `mean`, `variance`) come without that token: cut it off first.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]

_SMALLEST_VARIANCE = 1e-6
"""Where the model is certain, its variance is 0 but for rounding; the same floor as in OpenUnlearning."""


@metric(unit="nats", better="retain", range=(0.0, float("inf")), needs=("nll",))
def membership_loss(nll: ArrayLike) -> Floats:
    """LOSS: the mean loss itself, per row.

    Args:
        nll: Shape (n,).

    Returns:
        Shape (n,).

    References:
        Yeom et al. 2018, arXiv:1709.01604 (an adversary with a threshold on the loss).
    """
    return _rows(nll, "nll")


@metric(unit="nats per byte", better="retain", range=(0.0, float("inf")), needs=("nll", "answer"))
def membership_zlib(nll: ArrayLike, texts: Sequence[str]) -> Floats:
    """zlib: the mean loss over the size of the compressed text, so that dull texts do not pass for memorised ones.

    Formula: nll / len(zlib(text)), text as UTF-8. Carlini et al. divide logarithms of perplexity in the same way.

    Args:
        nll: Shape (n,).
        texts: The answers whose loss it is, n texts.

    Returns:
        Shape (n,).

    Raises:
        ValueError: Not as many texts as losses.

    References:
        Carlini et al. 2021, arXiv:2012.07805, section 5 (zlib).
    """
    sizes = np.array([len(zlib.compress(text.encode())) for text in texts], dtype=np.float64)
    return _rows(nll, "nll") / _same_length(sizes, nll)


@metric(unit="nats", better="retain", range=(float("-inf"), float("inf")))
def membership_reference(nll: ArrayLike, reference_nll: ArrayLike) -> Floats:
    """Reference: the mean loss beyond that of a model which never saw the text, per row.

    Formula: nll - reference_nll.

    Args:
        nll: Under this model, shape (n,).
        reference_nll: Under the reference, shape (n,).

    Returns:
        Shape (n,).

    Raises:
        ValueError: Not as many reference losses as losses.

    References:
        Carlini et al. 2021, arXiv:2012.07805, section 5 (comparison with another model); the difference as in
        OpenUnlearning, where Carlini et al. take a ratio.
    """
    return _rows(nll, "nll") - _same_length(_rows(reference_nll, "reference_nll"), nll)


@metric(unit="nats", better="retain", range=(0.0, float("inf")))
def membership_min_k(logp: Sequence[ArrayLike], k: float = 0.4) -> Floats:
    """Min-K%: how unlikely the least likely tokens are, per row.

    Formula: -(1/m) sum of the m lowest log p(y_t | y_<t), m = max(1, floor(k n)). (MUSE's code has no max; texts
    shorter than 1/k tokens have no score there.)

    Args:
        logp: For each row the log-probability of each token, n values, without the end-of-sequence token.
        k: Share of the tokens, over 0 and at most 1. OpenUnlearning and MUSE's PrivLeak take 0.4.

    Returns:
        One value per row; NaN for a row without tokens.

    Raises:
        ValueError: k is not such a share.

    References:
        Shi et al. 2024, arXiv:2310.16789, equation 1.
    """
    return np.array([-_mean_of_lowest(row, k) for row in _tokens(logp, "logp")], dtype=np.float64)


@metric(better="retain", range=(float("-inf"), float("inf")))
def membership_min_k_plus(
    logp: Sequence[ArrayLike], mean: Sequence[ArrayLike], variance: Sequence[ArrayLike], k: float = 0.4
) -> Floats:
    """Min-K%++: the same on log-probabilities measured against what the model expects at each place.

    Formula: -(1/m) sum of the m lowest z_t = (log p(y_t | y_<t) - mu_t) / sigma_t, where mu_t and sigma_t^2 are mean
    and variance of log p(v | y_<t) over v drawn from the model; sigma_t^2 is at least 1e-6.

    Args:
        logp: As in `membership_min_k`.
        mean: mu of each token, the same shapes.
        variance: sigma^2 of each token, the same shapes.
        k: As in `membership_min_k`.

    Returns:
        One value per row; NaN for a row without tokens.

    Raises:
        ValueError: The shapes differ, or k is not a share.

    References:
        Zhang et al. 2024, arXiv:2404.02936, section 3 (Min-K%++).
    """
    parts = zip(_tokens(logp, "logp"), _tokens(mean, "mean"), _tokens(variance, "variance"), strict=True)
    return np.array([-_mean_of_lowest(_standardised(*part), k) for part in parts], dtype=np.float64)


@metric(better="retain", range=(0.0, float("inf")), needs=("gradient_norm",))
def membership_gradient_norm(norms: ArrayLike) -> Floats:
    """Gradient norm: how far training on the text would still move the model, per row.

    Args:
        norms: Mean over the weight tensors of the 2-norm of the gradient of the row's `nll`, shape (n,); a probe
            computes it.

    Returns:
        Shape (n,), the norms themselves.

    Raises:
        ValueError: A norm is negative.

    References:
        Wang et al. 2024, arXiv:2402.17012 (gradient norms); the mean over tensors as in OpenUnlearning.
    """
    values = _rows(norms, "norms")
    if (values < 0).any():
        raise ValueError("a norm cannot be negative")
    return values


def _mean_of_lowest(values: Floats, k: float) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k is a share of the tokens, over 0 and at most 1, got {k}")
    if not len(values):
        return float("nan")
    return float(np.sort(values)[: max(1, int(k * len(values)))].mean())


def _standardised(logp: Floats, mean: Floats, variance: Floats) -> Floats:
    if not logp.shape == mean.shape == variance.shape:
        raise ValueError(f"logp, mean and variance differ in shape: {logp.shape}, {mean.shape}, {variance.shape}")
    return np.asarray((logp - mean) / np.sqrt(np.maximum(variance, _SMALLEST_VARIANCE)), dtype=np.float64)


def _tokens(rows: Sequence[ArrayLike], name: str) -> list[Floats]:
    return [_rows(row, f"a row of {name}") for row in rows]


def _rows(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} needs one value per entry, shape (n,), got shape {array.shape}")
    return array


def _same_length(values: Floats, like: ArrayLike) -> Floats:
    if values.shape != np.shape(like):
        raise ValueError(f"expected as many values as losses, got {values.shape} and {np.shape(like)}")
    return values
