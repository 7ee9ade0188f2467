"""Numbers of one answer from what one pass says of each of its tokens: loss, memorisation, membership scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from expunge.benchmarks.base import TokenScores
from expunge.metrics.membership import membership_min_k, membership_min_k_plus, membership_zlib
from expunge.metrics.memorization import exact_memorization, extraction_strength

TOKEN_NUMBERS = ("logp", "exact_memorization", "extraction_strength", "zlib", "min_k", "min_k_plus")


def mean_nll(scored: TokenScores | None) -> float | None:
    """Mean loss per token; None where there is no token or its score is NaN."""
    if scored is None or len(scored) == 0:
        return None
    mean = -math.fsum(scored.logp.tolist()) / len(scored)
    return None if math.isnan(mean) else mean


def token_numbers(scored: TokenScores | None, text: str, ends: bool, min_k: float) -> dict[str, float | None]:
    """`TOKEN_NUMBERS` of one answer; None where it could not be scored.

    Args:
        scored: What the pass says, in detail.
        text: The answer.
        ends: The last token is that of the end of the sequence, which memorisation and Min-K% leave out.
        min_k: Share of the least likely tokens in Min-K% and Min-K%++.
    """
    nll = mean_nll(scored)
    if scored is None or nll is None:
        return dict.fromkeys(TOKEN_NUMBERS)
    assert scored.top1 is not None
    assert scored.mean is not None
    assert scored.variance is not None
    own = slice(None, -1 if ends else None)
    logp = [scored.logp[own].astype(np.float64)]
    return plain(
        {
            "logp": -nll * len(scored),
            "exact_memorization": exact_memorization([scored.top1[own]])[0],
            "extraction_strength": extraction_strength([scored.top1[own]])[0],
            "zlib": membership_zlib([nll], [text])[0],
            "min_k": membership_min_k(logp, min_k)[0],
            "min_k_plus": membership_min_k_plus(logp, [scored.mean[own]], [scored.variance[own]], min_k)[0],
        }
    )


def plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Python floats, None in place of NaN, as they are stored."""
    return {name: None if math.isnan(value) else float(value) for name, value in numbers.items()}
