"""Closeness in meaning, from embeddings that a text model has computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]


@metric(better="", range=(-1.0, 1.0))
def semantic_similarity(answers: ArrayLike, generations: ArrayLike) -> Floats:
    """Cosine between the embeddings of the right answer and of what the model wrote, per row.

    Formula: a . g / (|a| |g|).

    Args:
        answers: Embeddings of the right answers, shape (n, d).
        generations: Embeddings of the generations by the same model, shape (n, d).

    Returns:
        Shape (n,); NaN where an embedding is 0 in every place.

    Raises:
        ValueError: The shapes differ or are not two-dimensional.

    References:
        Reimers and Gurevych 2019, arXiv:1908.10084 (Sentence-BERT).
    """
    first, second = np.asarray(answers, dtype=np.float64), np.asarray(generations, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"embeddings need one shape (n, d) on both sides, got {first.shape} and {second.shape}")
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.clip((first * second).sum(axis=1) / lengths, -1.0, 1.0), dtype=np.float64)
