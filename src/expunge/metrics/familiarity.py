"""Familiarity with a text: how often a model names an anchor of the text that its prompt does not contain.

Our replacement for the measure of Eldan & Russinovich 2023 (arXiv:2310.02238, section 4), whose prompts and judge
(GPT-4) are not public: passages, anchors and hits are all computed from the text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]


@metric(better="lower", range=(0.0, 1.0))
def familiarity_completion(
    prompt_anchors: Sequence[Collection[str]], completion_anchors: Sequence[Collection[str]]
) -> Floats:
    """Return whether a completion names an anchor that its prompt does not contain, per passage.

    Args:
        prompt_anchors: Anchors in each prompt, n collections.
        completion_anchors: Anchors in each completion, n collections.

    Returns:
        Shape (n,), 0 or 1; the mean is the hit rate.

    Raises:
        ValueError: The numbers of prompts and completions differ.
    """
    pairs = zip(prompt_anchors, completion_anchors, strict=True)
    return np.asarray([bool(set(completion) - set(prompt)) for prompt, completion in pairs], dtype=np.float64)
