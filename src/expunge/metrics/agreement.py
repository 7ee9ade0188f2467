"""Agreement of a model with a retain model (forget quality), and utility in one number."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]

_SMALLEST = 1e-300
"""Below this a double loses digits or becomes 0, so the logarithm is taken from the formula instead."""


@dataclass(frozen=True)
class KsTest:
    """A two-sample Kolmogorov-Smirnov test."""

    statistic: float
    """D: the largest distance between the two distribution functions."""
    pvalue: float
    log10_pvalue: float
    """Finite even where `pvalue` is too small for a double."""


@metric(better="higher", range=(0.0, 1.0))
def model_utility(components: ArrayLike) -> Floats:
    """Harmonic mean of the nine numbers that say what the model still knows; 0 if any of them is 0.

    Formula: 9 / sum_i (1 / c_i), over {probability, ROUGE-L recall, truth ratio} x {retain, real authors,
    world facts}.

    Args:
        components: The nine numbers in the last axis, shape (..., 9).

    Returns:
        Shape (...).

    Raises:
        ValueError: The last axis is not nine long, or a component is negative.

    References:
        Maini et al. 2024, arXiv:2401.06121, section 2.2.1 (Model Utility).
    """
    values = np.asarray(components, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != 9:
        raise ValueError(f"model utility is made of nine components, got shape {values.shape}")
    if (values < 0).any():
        raise ValueError("model utility is not defined for negative components")
    with np.errstate(divide="ignore"):
        return np.asarray(9.0 / (1.0 / values).sum(axis=-1), dtype=np.float64)


@metric(better="higher", range=(0.0, 1.0))
def forget_quality(model: ArrayLike, retain_model: ArrayLike) -> float:
    """Forget quality: could the truth ratios of this model come from a model that never saw the forget set?

    It is the p-value of a two-sided two-sample Kolmogorov-Smirnov test. It does not change when every R is
    replaced by 1/R. It depends on the number of rows: values from different numbers of rows do not compare,
    and two honest retain-only models give anything from about 0.8 to 1.

    Args:
        model: Truth ratio R of each forget row under the model, shape (n,).
        retain_model: The same rows under the retain model, shape (n,).

    Returns:
        The p-value. `ks_test` gives its logarithm and the distance D as well.

    References:
        Maini et al. 2024, arXiv:2401.06121, section 2.2.2 (Forget Quality).
    """
    return ks_test(model, retain_model).pvalue


def ks_test(first: ArrayLike, second: ArrayLike) -> KsTest:
    """Two-sided two-sample Kolmogorov-Smirnov test, with a logarithm that stays finite.

    The p-value is scipy's (`ks_2samp`, method 'auto': exact up to 10000 values a side). Where it is below
    1e-300, the logarithm comes from the exact series of `log_pvalue_equal_sizes` for samples of equal size,
    and from the leading term of Kolmogorov's limit, p ~ 2 exp(-2 D^2 n m / (n + m)), for unequal ones.

    Args:
        first: Shape (n,).
        second: Shape (m,).

    Raises:
        ValueError: A sample is empty or holds NaN.
    """
    from scipy.stats import ks_2samp

    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.ndim != 1 or right.ndim != 1 or not len(left) or not len(right):
        raise ValueError(f"the test needs two non-empty samples, got shapes {left.shape} and {right.shape}")
    if np.isnan(left).any() or np.isnan(right).any():
        raise ValueError("the test is not defined for NaN; leave missing rows out on both sides")
    with warnings.catch_warnings():
        # Where its exact sum leaves the range of a double, scipy takes the limit instead and warns about it.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = ks_2samp(left, right, alternative="two-sided", method="auto")
    statistic, pvalue = float(result.statistic), float(result.pvalue)
    if pvalue >= _SMALLEST:
        log10 = math.log10(pvalue)
    elif len(left) == len(right):
        log10 = log_pvalue_equal_sizes(round(statistic * len(left)), len(left)) / math.log(10)
    else:
        effective = len(left) * len(right) / (len(left) + len(right))
        log10 = (math.log(2) - 2 * effective * statistic**2) / math.log(10)
    return KsTest(statistic, pvalue, log10)


def log_pvalue_equal_sizes(steps: int, size: int) -> float:
    """Natural logarithm of the exact p-value of D = steps/size for two samples of `size` values each.

    Formula: P(D >= h/n) = 2 sum_{k>=1} (-1)^(k-1) C(2n, n - kh) / C(2n, n). The first term is taken out of
    the sum as a logarithm, so that nothing underflows.

    Args:
        steps: h = D * n, a whole number from 0 to n.
        size: n.

    References:
        Gnedenko and Korolyuk 1951 (reflection of lattice paths).
    """
    from scipy.special import gammaln

    if steps <= 0:
        return 0.0
    jumps = steps * np.arange(1, size // steps + 1)
    terms = 2 * gammaln(size + 1) - gammaln(size - jumps + 1) - gammaln(size + jumps + 1)
    signs = np.where(np.arange(len(jumps)) % 2 == 0, 1.0, -1.0)
    rest = float((signs * np.exp(terms - terms[0])).sum())
    return min(0.0, math.log(2) + float(terms[0]) + math.log(rest))


def resampled_forget_quality(model: ArrayLike, retain_model: ArrayLike, weights: Floats) -> Floats:
    """Forget quality of many resamples at once, the same rows drawn for model and retain model.

    All values are sorted once. In each resample the distance is the largest partial sum of the row counts,
    counted +1 for the model and -1 for the retain model; the p-value depends on it and on the row count alone.
    A resample holds some rows twice, which can only widen distances: where the two samples nearly agree, the
    resampled p-values lie below the p-value of the rows themselves.

    Args:
        model: R under the model, shape (n,).
        retain_model: R of the same rows under the retain model, shape (n,).
        weights: How often each resample holds each row, shape (resamples, n), whole numbers.

    Returns:
        p-values, shape (resamples,).
    """
    pooled = np.concatenate([np.asarray(model, dtype=np.float64), np.asarray(retain_model, dtype=np.float64)])
    order = np.argsort(pooled, kind="stable")
    ordered = pooled[order]
    ends = np.append(ordered[1:] != ordered[:-1], True)
    steps = np.concatenate([weights, -weights], axis=1)[:, order]
    heights = np.abs(np.cumsum(steps, axis=1)[:, ends]).max(axis=1)
    keys = np.stack([np.rint(heights), np.rint(weights.sum(axis=1))], axis=1).astype(np.int64)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    table = np.array([math.exp(log_pvalue_equal_sizes(int(height), int(size))) for height, size in unique])
    return table[inverse.reshape(-1)]
