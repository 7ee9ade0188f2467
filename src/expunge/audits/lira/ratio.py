"""Likelihood ratio of membership: logit-scaled answer probabilities of one model against those of shadow models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

PER_ROW_FROM = 64
"""Shadow models from which every row has a standard deviation of its own (Carlini et al. 2022, section VI)."""
_SMALLEST = 1e-12
"""Smallest distance of a probability from 0 and 1, and smallest standard deviation."""


def logit_scaled(probability: ArrayLike) -> Floats:
    """Compute phi = log(p / (1 - p)), which is close to normally distributed over shadow models.

    Args:
        probability: p of any shape; NaN stays NaN.

    Example:
        >>> float(logit_scaled(0.5))
        0.0

    References:
        Carlini et al. 2022, arXiv:2112.03570, section IV.
    """
    p = np.clip(np.asarray(probability, dtype=np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True)
class Normal:
    """Normal distribution of phi over the shadow models of one kind, per row or one for all rows."""

    mean: Floats
    """mu, (n,)."""
    deviation: Floats
    """sigma, (n,)."""

    @classmethod
    def per_row(cls, phi: Floats, chosen: NDArray[np.bool_]) -> Normal:
        """Fit each row: its own mean over the chosen models, and a standard deviation.

        With fewer than `PER_ROW_FROM` models, sigma is common to all rows: the root of the variance around the rows'
        own means, divided by the degrees of freedom. Few values per row estimate a mean, but no variance.

        Args:
            phi: (K, n), one row per shadow model; NaN where a row was not measured.
            chosen: (K, n), whether the model counts for the row; at least two do.
        """
        values = np.where(chosen, phi, 0.0)
        counts = chosen.sum(axis=0)
        mean = values.sum(axis=0) / counts
        squares = (np.where(chosen, phi - mean, 0.0) ** 2).sum(axis=0)
        if len(phi) >= PER_ROW_FROM:
            return cls(mean, _deviation(squares / (counts - 1)))
        measured = np.isfinite(squares)
        variance = squares[measured].sum() / max((counts - 1)[measured].sum(), 1)
        return cls(mean, np.full(len(mean), _deviation(variance)))

    @classmethod
    def of_all(cls, phi: Floats, chosen: NDArray[np.bool_]) -> Normal:
        """Fit one mean and one standard deviation to all rows; arguments as `per_row`."""
        values = phi[chosen & np.isfinite(phi)]
        num = phi.shape[1]
        return cls(np.full(num, values.mean()), np.full(num, _deviation(values.var(ddof=1))))

    def log_density(self, phi: Floats) -> Floats:
        """Return log N(phi; mu, sigma^2) without the constant, (n,)."""
        return np.asarray(-0.5 * ((phi - self.mean) / self.deviation) ** 2 - np.log(self.deviation))


def offline(phi: Floats, outside: Normal) -> Floats:
    """Compute the share of models without a row that give its answer a lower probability.

    Formula: 1 - Pr[Z > phi] = Phi((phi - mu_out) / sigma_out), Z ~ N(mu_out, sigma_out^2). It is 1/2 on average for a
    model that is like the shadow models that never saw the row, and near 1 for one that knows it.

    Args:
        phi: Values of the measured model, (n,).
        outside: Distribution over the shadow models that were not trained on the row.

    References:
        Carlini et al. 2022, arXiv:2112.03570, equation 4.
    """
    from scipy.special import ndtr

    return np.asarray(ndtr((phi - outside.mean) / outside.deviation))


def online(phi: Floats, inside: Normal, outside: Normal) -> Floats:
    """Compute the probability of membership from both kinds of shadow models, if both are equally likely before.

    Formula: Lambda / (1 + Lambda), Lambda = N(phi; mu_in, sigma_in^2) / N(phi; mu_out, sigma_out^2).

    Args:
        phi: Values of the measured model, (n,).
        inside: Distribution over the shadow models that were trained on the row.
        outside: Distribution over those that were not.

    References:
        Carlini et al. 2022, arXiv:2112.03570, algorithm 1.
    """
    from scipy.special import expit

    return np.asarray(expit(inside.log_density(phi) - outside.log_density(phi)))


def _deviation(variance: ArrayLike) -> Floats:
    return np.asarray(np.maximum(np.sqrt(np.asarray(variance, dtype=np.float64)), _SMALLEST))
