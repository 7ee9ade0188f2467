"""Forget quality (agreement with a retain model) and model utility, the two headline metrics of TOFU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric
from expunge.metrics.intervals import Interval
from expunge.metrics.kolmogorov_smirnov import (
    PairedScores,
    distance_interval,
    ks_test,
    log_pvalue_at,
    paired_ks_test,
    smallest_ks_pvalue,
)
from expunge.metrics.permutation import smallest_swap_pvalue
from expunge.records import Value

Floats = NDArray[np.float64]

LEVEL = 0.05
"""Largest p-value at which two models differ. A test whose smallest p-value is above it shows nothing."""


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

    p < 0.05 is not a test at the 5% level. The test assumes independent samples, but rows about one author depend on
    each other, which makes false alarms more frequent, and both models answer the same questions, which makes them
    rarer. For 20 authors of 20 rows with an intra-class correlation of 0.05, simulation gives FALSE_ALARMS
    (`perf/coverage.py`). `paired_forget_quality` allows for both.

    Args:
        model: Truth ratio R of each forget row under the model, shape (n,).
        retain_model: Truth ratio of the same rows under the retain model, shape (n,).

    Returns:
        The p-value. `ks_test` also returns its logarithm and the distance D.

    References:
        Maini et al. 2024, arXiv:2401.06121, section 2.2.2 (Forget Quality).
    """
    return ks_test(model, retain_model).pvalue


@metric(better="higher", range=(0.0, 1.0))
def paired_forget_quality(
    model: ArrayLike, retain_model: ArrayLike, groups: Sequence[Hashable], seed: int = 0
) -> float:
    """Compute the p-value of the KS distance between a model and a retain model, by swaps of both in whole groups.

    The distance is that of `forget_quality`. The p-value allows for rows of one author that depend on each other, and
    for scores of both models that are correlated because the rows are the same, so p < 0.05 is a test at the 5% level.
    It cannot be below 2^(1 - G) for G groups.

    Args:
        model: Truth ratio R of each forget row under the model, shape (n,).
        retain_model: Truth ratio of the same rows under the retain model, shape (n,).
        groups: Group of each row.
        seed: Seed of the swaps, which are sampled for more than 13 groups.

    Returns:
        The p-value.

    References:
        `paired_ks_test`.
    """
    return paired_ks_test(PairedScores.of(model, retain_model, groups), seed).pvalue


def agreement_values(
    model: ArrayLike,
    retain_model: ArrayLike,
    groups: Sequence[Hashable],
    compared: str,
    *,
    resamples: int,
    seed: int,
    num_missing: int = 0,
) -> tuple[Value, Value]:
    """Compute forget quality and its paired version, or state why the sample is too small for them.

    Forget quality has the interval of p at both ends of the interval of the distance D (`distance_interval`). Its
    `extra` holds log10 of p ('log10'), D and its interval ('ks', 'ks_low', 'ks_high'), the smallest p-value that this
    number of rows can give ('smallest_p'), and the paired p-value ('paired_p').

    A p-value shows nothing if even completely different samples would have a larger one than 0.05: 2 / C(2n, n) for n
    rows, which is 1, 0.33 and 0.1 for 1, 2 and 3 rows; 2^(1 - G) for G groups in the paired version. Such a value is
    missing.

    Args:
        model: Score of each forget row under the model, shape (n,), without missing ones.
        retain_model: Score of the same rows under the retain model, shape (n,).
        groups: Group of each row.
        compared: The scores and the rows in words, such as 'truth ratios of ...'.
        resamples: Bootstrap resamples of the interval; 0 for none.
        seed: Seed of bootstrap and swaps.
        num_missing: Number of rows without a score.

    Returns:
        Forget quality and paired forget quality.
    """
    scores = PairedScores.of(model, retain_model, groups)
    num_rows = scores.grouping.num_rows
    test, smallest = ks_test(model, retain_model), smallest_ks_pvalue(num_rows)
    extra = {"ks": test.statistic, "smallest_p": smallest}
    needs = _too_few("forget rows", num_rows, smallest_ks_pvalue)
    if needs:
        missing = Value(point=None, n=num_rows, n_missing=num_missing, needs=needs, extra=extra)
        return missing, missing
    paired = _paired_value(scores, compared, seed, num_missing)
    if paired.point is not None:
        extra["paired_p"] = paired.point
    distance = distance_interval(scores, resamples, seed)
    interval = Interval.missing(distance.reason)
    if distance.low is not None and distance.high is not None:
        extra |= {"ks_low": distance.low, "ks_high": distance.high}
        # The p-value falls with the distance.
        low, high = (math.exp(log_pvalue_at(end, num_rows)) for end in (distance.high, distance.low))
        interval = Interval(low, high, f"p at both ends of the {distance.how}")
    value = Value(
        point=test.pvalue,
        n=num_rows,
        n_missing=num_missing,
        how=f"p-value of a two-sided Kolmogorov-Smirnov test between the {compared}; p < {LEVEL:g} is not a test at "
        f"the {LEVEL:.0%} level, as rows of a group depend on each other and both models were scored on the same rows "
        "(the paired version is)",
        better=forget_quality.spec.better,
        extra={"log10": test.log10_pvalue, **extra},
    )
    return interval.attach(value), paired


def _paired_value(scores: PairedScores, compared: str, seed: int, num_missing: int) -> Value:
    num_rows, num_groups = scores.grouping.num_rows, scores.grouping.num_groups
    needs = _too_few("groups of forget rows", num_groups, smallest_swap_pvalue)
    if needs:
        return Value(point=None, n=num_rows, n_missing=num_missing, needs=needs)
    test = paired_ks_test(scores, seed)
    return Value(
        point=test.pvalue,
        n=num_rows,
        n_missing=num_missing,
        how=f"p-value of the Kolmogorov-Smirnov distance between the {compared}; {test.how}",
        better=paired_forget_quality.spec.better,
        extra={"log10": math.log10(test.pvalue), "smallest_p": test.smallest_pvalue},
    )


def _too_few(unit: str, number: int, smallest_pvalue: Callable[[int], float]) -> str:
    """Return what a test lacks if even its smallest p-value is above the level; empty if it lacks nothing."""
    if smallest_pvalue(number) <= LEVEL:
        return ""
    enough = next(larger for larger in itertools.count(number + 1) if smallest_pvalue(larger) <= LEVEL)
    return (
        f"at least {enough} {unit}; with {number} the smallest possible p-value is {smallest_pvalue(number):.2g}, so "
        "agreement cannot be concluded"
    )
