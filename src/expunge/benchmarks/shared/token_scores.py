"""Per-answer metrics from token scores: loss, memorisation and membership scores."""

from __future__ import annotations

import math

import numpy as np

from expunge.benchmarks.base import TokenScores
from expunge.metrics.membership import membership_min_k, membership_min_k_plus, membership_zlib
from expunge.metrics.memorization import exact_memorization, extraction_strength

TOKEN_METRICS = ("logp", "exact_memorization", "extraction_strength", "zlib", "min_k", "min_k_plus")


def mean_nll(scored: TokenScores | None) -> float | None:
    """Return the mean loss per token; None without tokens or where a score is NaN."""
    if scored is None or len(scored) == 0:
        return None
    mean = -math.fsum(scored.logp.tolist()) / len(scored)
    return None if math.isnan(mean) else mean


def token_metrics(scored: TokenScores | None, text: str, has_end: bool, min_k: float) -> dict[str, float | None]:
    """Compute `TOKEN_METRICS` of one answer; None for each if it could not be scored.

    Args:
        scored: Detailed token scores of the answer.
        text: The answer.
        has_end: Whether the last token is the end-of-sequence token, which memorisation and Min-K% leave out.
        min_k: Share of the least likely tokens in Min-K% and Min-K%++.
    """
    nll = mean_nll(scored)
    if scored is None or nll is None:
        return dict.fromkeys(TOKEN_METRICS)
    assert scored.top1 is not None
    assert scored.mean is not None
    assert scored.variance is not None
    answer = slice(None, -1 if has_end else None)
    logp = [scored.logp[answer].astype(np.float64)]
    metrics = {
        "logp": -nll * len(scored),
        "exact_memorization": exact_memorization([scored.top1[answer]])[0],
        "extraction_strength": extraction_strength([scored.top1[answer]])[0],
        "zlib": membership_zlib([nll], [text])[0],
        "min_k": membership_min_k(logp, min_k)[0],
        "min_k_plus": membership_min_k_plus(logp, [scored.mean[answer]], [scored.variance[answer]], min_k)[0],
    }
    return {name: none_for_nan(value) for name, value in metrics.items()}


def none_for_nan(value: float) -> float | None:
    """Return a Python float, or None for NaN, as records store it."""
    return None if math.isnan(value) else float(value)
