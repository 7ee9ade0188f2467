"""Forget quality (agreement with a retain model) and model utility, the two headline metrics of TOFU."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]

_SMALLEST_PVALUE = 1e-300
"""Below this, a double loses digits or underflows, so the logarithm is computed directly from the formula."""


@dataclass(frozen=True)
class KsTest:
    """Result of a two-sample Kolmogorov-Smirnov test."""

    statistic: float
    """D: the largest distance between the two empirical distribution functions."""
    pvalue: float
    log10_pvalue: float
    """Finite even if `pvalue` underflows to 0."""


@metric(better="higher", range=(0.0, 1.0))
def model_utility(components: ArrayLike) -> Floats:
    """Compute model utility: the harmonic mean of nine scores on knowledge to be preserved; 0 if any score is 0.

    Formula: 9 / sum_i (1 / c_i), over {probability, ROUGE-L recall, truth ratio} x {retain, real authors,
    world facts}.

    Args:
        components: The nine scores in the last axis, shape (..., 9).

    Returns:
        Shape (...).

    Raises:
        ValueError: The last axis does not have length 9, or a component is negative.

    References:
        Maini et al. 2024, arXiv:2401.06121, section 2.2.1 (Model Utility).
    """
    values = np.asarray(components, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != 9:
        raise ValueError(f"model utility needs nine components in the last axis, got shape {values.shape}")
    if (values < 0).any():
        raise ValueError("model utility needs components of at least 0, got a negative one")
    with np.errstate(divide="ignore"):
        return np.asarray(9.0 / (1.0 / values).sum(axis=-1), dtype=np.float64)


@metric(better="higher", range=(0.0, 1.0))
def forget_quality(model: ArrayLike, retain_model: ArrayLike) -> float:
    """Compute forget quality: the p-value of a KS test between the truth ratios of a model and a retain model.

    A high p-value means that the truth ratios could come from a model that never saw the forget set. The two-sided
    two-sample Kolmogorov-Smirnov test does not change when every R is replaced by 1/R. Its p-value depends on the
    number of rows, so values from different numbers of rows are not comparable. Comparing two retain models gives about
    0.8 to 1.

    Args:
        model: Truth ratio R of each forget row under the model, shape (n,).
        retain_model: Truth ratio of the same rows under the retain model, shape (n,).

    Returns:
        The p-value. `ks_test` also returns its logarithm and the distance D.

    References:
        Maini et al. 2024, arXiv:2401.06121, section 2.2.2 (Forget Quality).
    """
    return ks_test(model, retain_model).pvalue


def ks_test(first: ArrayLike, second: ArrayLike) -> KsTest:
    """Run a two-sided two-sample Kolmogorov-Smirnov test, with a log p-value that stays finite.

    The p-value is scipy's (`ks_2samp`, method 'auto': exact up to 10000 values per sample). Where it is below
    1e-300, the logarithm is computed from the exact series of `log_pvalue_equal_sizes` for samples of equal size,
    and from the leading term of Kolmogorov's limit, p ~ 2 exp(-2 D^2 n m / (n + m)), for samples of unequal size.

    Args:
        first: Shape (n,).
        second: Shape (m,).

    Raises:
        ValueError: A sample is empty or contains NaN.
    """
    from scipy.stats import ks_2samp

    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or not len(x) or not len(y):
        raise ValueError(f"the test needs two non-empty samples, got shapes {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("the test is not defined for NaN; remove missing rows from both samples")
    with warnings.catch_warnings():
        # Where the exact sum overflows, scipy falls back to the asymptotic p-value and warns.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = ks_2samp(x, y, alternative="two-sided", method="auto")
    statistic, pvalue = float(result.statistic), float(result.pvalue)
    if pvalue >= _SMALLEST_PVALUE:
        log10_pvalue = math.log10(pvalue)
    elif len(x) == len(y):
        log10_pvalue = log_pvalue_equal_sizes(round(statistic * len(x)), len(x)) / math.log(10)
    else:
        effective_size = len(x) * len(y) / (len(x) + len(y))
        log10_pvalue = (math.log(2) - 2 * effective_size * statistic**2) / math.log(10)
    return KsTest(statistic, pvalue, log10_pvalue)


def log_pvalue_equal_sizes(steps: int, size: int) -> float:
    """Compute the natural logarithm of the exact p-value of D = steps/size for two samples of `size` values each.

    Formula: P(D >= h/n) = 2 sum_{k>=1} (-1)^(k-1) C(2n, n - kh) / C(2n, n). The first term is factored out of the
    sum as a logarithm, so that nothing underflows.

    Args:
        steps: h = D * n, an integer from 0 to n.
        size: n.

    References:
        Gnedenko and Korolyuk 1951 (reflection of lattice paths).
    """
    from scipy.special import gammaln

    if steps <= 0:
        return 0.0
    multiples = steps * np.arange(1, size // steps + 1)
    log_terms = 2 * gammaln(size + 1) - gammaln(size - multiples + 1) - gammaln(size + multiples + 1)
    signs = np.where(np.arange(len(multiples)) % 2 == 0, 1.0, -1.0)
    relative_sum = float((signs * np.exp(log_terms - log_terms[0])).sum())
    return min(0.0, math.log(2) + float(log_terms[0]) + math.log(relative_sum))


def resampled_forget_quality(model: ArrayLike, retain_model: ArrayLike, weights: Floats) -> Floats:
    """Compute the forget quality of many resamples at once, with the same rows sampled for model and retain model.

    All values are sorted once. In each resample, n D is the largest absolute partial sum of the row counts, which
    count +1 for the model and -1 for the retain model; the p-value depends on n D and the number of rows only.
    Repeated rows tend to increase D, so where the two samples nearly agree, the resampled p-values are below the
    p-value of the rows themselves.

    Args:
        model: R under the model, shape (n,).
        retain_model: R of the same rows under the retain model, shape (n,).
        weights: Count of each row in each resample, shape (resamples, n), integer values.

    Returns:
        p-values, shape (resamples,).
    """
    pooled = np.concatenate([np.asarray(model, dtype=np.float64), np.asarray(retain_model, dtype=np.float64)])
    order = np.argsort(pooled, kind="stable")
    ordered = pooled[order]
    # The distribution functions are compared after all rows of equal value.
    is_last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    signed_counts = np.concatenate([weights, -weights], axis=1)[:, order]
    steps = np.abs(np.cumsum(signed_counts, axis=1)[:, is_last_of_ties]).max(axis=1)
    # Few different pairs of (n D, n) occur, so each p-value is computed once.
    keys = np.stack([np.rint(steps), np.rint(weights.sum(axis=1))], axis=1).astype(np.int64)
    unique_keys, inverse = np.unique(keys, axis=0, return_inverse=True)
    pvalues = np.array([math.exp(log_pvalue_equal_sizes(int(step), int(size))) for step, size in unique_keys])
    return pvalues[inverse.reshape(-1)]
