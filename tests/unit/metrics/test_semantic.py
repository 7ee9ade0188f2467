"""Cosine similarity of embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.semantic import semantic_similarity


def test_closed_forms():
    """Parallel 1, perpendicular 0, opposite -1, and at 45 degrees 1/sqrt(2); lengths do not matter."""
    answers = [[1.0, 0.0], [2.0, 0.0], [1.0, 1.0], [3.0, 0.0]]
    generations = [[5.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 1.0]]
    np.testing.assert_allclose(
        semantic_similarity(answers, generations), [1.0, 0.0, -1.0, 1 / math.sqrt(2)], atol=1e-15
    )


def test_equals_a_plain_loop_and_is_symmetric():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(20, 7)), rng.normal(size=(20, 7))
    values = semantic_similarity(first, second)
    for a, b, value in zip(first.tolist(), second.tolist(), values, strict=True):
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        assert value == pytest.approx(dot / (math.hypot(*a) * math.hypot(*b)), abs=1e-10)
    np.testing.assert_array_equal(values, semantic_similarity(second, first))


def test_an_embedding_of_zeros_gives_nan():
    assert np.isnan(semantic_similarity([[0.0, 0.0]], [[1.0, 0.0]])[0])


def test_rounding_does_not_exceed_the_range():
    vectors = np.random.default_rng(1).normal(size=(500, 33))
    assert (semantic_similarity(vectors, vectors) <= 1.0).all()


def test_unequal_shapes_are_rejected():
    with pytest.raises(ValueError, match="one shape"):
        semantic_similarity([[1.0, 0.0]], [[1.0]])
    with pytest.raises(ValueError, match="one shape"):
        semantic_similarity([1.0], [1.0])
