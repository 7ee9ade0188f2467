"""Containment: whether a generated answer contains the true one. An example of a user-defined metric.

Use it with `evaluate: {metrics: [docs/examples/my_metric.py]}`; `expunge show docs/examples/my_metric.py` explains it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.metrics import metric


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
def containment(answers: Sequence[str], generations: Sequence[str]) -> NDArray[np.float64]:
    """Return whether the generated answer contains the true one, per row, regardless of case.

    Args:
        answers: True answers, n strings.
        generations: Generated answers, n strings.

    Returns:
        Shape (n,), each 0 or 1.

    Example:
        >>> containment(["In Bern."], ["She was born in Bern, I think."]).tolist()
        [1.0]
    """
    pairs = zip(answers, generations, strict=True)
    return np.array([answer.rstrip(" .").lower() in generation.lower() for answer, generation in pairs], np.float64)
