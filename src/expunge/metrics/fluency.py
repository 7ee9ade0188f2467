"""Whether a model still writes like one: variety, repetition and perplexity, without any other model.

Words are runs of letters, digits and underscores in any script, lower-cased.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]
Ngram = tuple[str, ...]

_WORD = re.compile(r"\w+")


@metric(better="higher", range=(0.0, 1.0))
def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Share of different n-grams among all n-grams of all texts together: distinct-n.

    It falls as texts are added, and drawing texts twice lowers it by itself: compare it between models on the same
    prompts with the same length of answers, and give it no bootstrap interval. (Li et al. divide by the number of
    words; dividing by the number of n-grams, as is usual now, lets n = 2 and 3 reach 1.)

    Args:
        texts: What the model wrote.
        n: Words per n-gram, at least 1.

    Returns:
        One number; NaN where no text has n words.

    Raises:
        ValueError: n is below 1.

    References:
        Li et al. 2016, arXiv:1510.03055 (distinct-1, distinct-2).
    """
    every = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(every)) / len(every) if every else float("nan")


@metric(better="lower", range=(0.0, 1.0), needs=("generation",))
def repetition(texts: Sequence[str], n: int = 4) -> Floats:
    """Share of a text's n-grams that it has had before, per row: rep-n.

    Formula: 1 - |different n-grams| / |n-grams|. 0: nothing is said twice. Near 1: a loop.

    Args:
        texts: What the model wrote.
        n: Words per n-gram, at least 1.

    Returns:
        One value per text; NaN for a text with fewer than n words.

    Raises:
        ValueError: n is below 1.

    References:
        Welleck et al. 2020, arXiv:1908.04319 (seq-rep-n).
    """
    counted = [ngrams(text, n) for text in texts]
    return np.array([1 - len(set(row)) / len(row) if row else np.nan for row in counted], dtype=np.float64)


@metric(better="", range=(1.0, float("inf")))
def perplexity(logp: ArrayLike, num_tokens: ArrayLike) -> float:
    """Perplexity of all texts together under a model.

    Formula: exp(-sum_i logp_i / sum_i n_i): long texts count as much as they have tokens. Lower is better on text
    that a model should know; as a measure of fluency the texts are the unlearned model's own and the model is the
    target it was made from.

    Args:
        logp: Sum of log-probabilities of each text, shape (n,).
        num_tokens: Tokens behind each sum, shape (n,).

    Returns:
        One number; NaN where there is no token.

    Raises:
        ValueError: The shapes differ.

    References:
        Jelinek et al. 1977, doi:10.1121/1.2016299.
    """
    sums, counts = np.asarray(logp, dtype=np.float64), np.asarray(num_tokens, dtype=np.float64)
    if sums.ndim != 1 or sums.shape != counts.shape:
        raise ValueError(f"logp and num_tokens need one value per text, got shapes {sums.shape} and {counts.shape}")
    return float(resampled_perplexity(sums, counts, np.ones((1, len(sums))))[0])


def resampled_perplexity(logp: ArrayLike, num_tokens: ArrayLike, weights: Floats) -> Floats:
    """Perplexity of many resamples at once.

    Args:
        logp: As in `perplexity`.
        num_tokens: As in `perplexity`.
        weights: How often each resample holds each text, shape (resamples, n).

    Returns:
        Shape (resamples,).
    """
    with np.errstate(invalid="ignore"):
        return np.exp(-(weights @ np.asarray(logp, dtype=np.float64)) / (weights @ np.asarray(num_tokens, np.float64)))


def ngrams(text: str, n: int) -> list[Ngram]:
    """All runs of n words of a text, in order.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n-grams have at least one word, got n = {n}")
    words = _WORD.findall(text.lower())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
