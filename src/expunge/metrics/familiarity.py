"""How familiar a model still is with a text: does it name what only that text has, without being told?

Ours, in the place of the measure of Eldan & Russinovich 2023 (arXiv:2310.02238, section 4), whose prompts and judge
(GPT-4) are not public: passages, anchors and counting are all computed from the text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]


@metric(better="lower", range=(0.0, 1.0))
def familiarity_completion(told: Sequence[Collection[str]], named: Sequence[Collection[str]]) -> Floats:
    """Whether a completion names an anchor that its prompt does not hold, per passage.

    Args:
        told: Anchors in each prompt, n collections.
        named: Anchors in each completion, n collections.

    Returns:
        Shape (n,), 0 or 1; the mean is the hit rate.

    Raises:
        ValueError: Not as many completions as prompts.
    """
    pairs = zip(told, named, strict=True)
    return np.asarray([bool(set(completion) - set(prompt)) for prompt, completion in pairs], dtype=np.float64)


@metric(better="lower", range=(0.0, 1.0))
def familiarity_probability(logp: Sequence[ArrayLike]) -> Floats:
    """Probability that the next token begins an anchor, per passage: sum_k exp(logp_k).

    Args:
        logp: For each passage, at the position before an anchor, the log-probabilities of all tokens with which an
            anchor can begin.

    Returns:
        Shape (n,).
    """
    return np.asarray([np.exp(np.asarray(row, dtype=np.float64)).sum() for row in logp], dtype=np.float64)
