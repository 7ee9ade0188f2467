"""Semantic similarity of texts, from precomputed embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]


@metric(better="", range=(-1.0, 1.0))
def semantic_similarity(answers: ArrayLike, generations: ArrayLike) -> Floats:
    """Compute the cosine similarity between the embeddings of the right answer and the generation, per row.

    Formula: a . g / (|a| |g|).

    Args:
        answers: Embeddings of the right answers, shape (n, d).
        generations: Embeddings of the generations by the same embedding model, shape (n, d).

    Returns:
        Shape (n,); NaN where an embedding is all zeros.

    Raises:
        ValueError: The shapes differ or are not two-dimensional.

    References:
        Reimers and Gurevych 2019, arXiv:1908.10084 (Sentence-BERT).
    """
    a, g = np.asarray(answers, dtype=np.float64), np.asarray(generations, dtype=np.float64)
    if a.ndim != 2 or a.shape != g.shape:
        raise ValueError(f"answers and generations must have one shape (n, d), got {a.shape} and {g.shape}")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(g, axis=1)
    with np.errstate(invalid="ignore"):
        # Rounding can put the cosine of parallel vectors slightly outside the range.
        return np.asarray(np.clip((a * g).sum(axis=1) / norms, -1.0, 1.0), dtype=np.float64)
