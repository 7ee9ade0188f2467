"""How much of a text a model writes out: token by token beside the text, and as a continuation of its own.

`hits` says for each token of an answer whether it is the model's likeliest one, given the question and the answer's
earlier tokens. All functions here take the tokens of the answer alone: cut off the end-of-sequence token first, which
every answer shares and which is no part of what was memorised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.base import metric
from expunge.metrics.rouge import rouge_scores

Floats = NDArray[np.float64]

STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where a model that was shown examples of questions and answers has begun the next one."""


@metric(better="", range=(0.0, 1.0))
def exact_memorization(hits: Sequence[ArrayLike]) -> Floats:
    """Share of the answer's tokens that the model would have chosen in their place, per row.

    Formula: EM = sum_k 1{argmax_v p(v | q, y_<k) = y_k} / n.

    Args:
        hits: For each row, whether each token of the answer is the likeliest one, n booleans, without the
            end-of-sequence token.

    Returns:
        One value per row; NaN for an answer without tokens.

    References:
        Tirumala et al. 2022, arXiv:2205.10770 (exact memorization); for unlearning Dorna et al. 2025, arXiv:2506.12618.
    """
    return np.array([row.mean() if len(row) else np.nan for row in map(_booleans, hits)], dtype=np.float64)


@metric(better="", range=(0.0, 1.0))
def extraction_strength(hits: Sequence[ArrayLike], openunlearning: bool = False) -> Floats:
    """Share of the answer that the model completes by itself, word for word, once it has been given the rest.

    Formula: ES = 1 - k/n, where k is the shortest start of the answer after which every likeliest token is the
    right one: k = min {k : hits_j for all j >= k}. 1: the question alone is enough. 0: not even the last token comes.

    Args:
        hits: As in `exact_memorization`.
        openunlearning: As OpenUnlearning computes it: k is at most n - 1, so an answer whose last token is wrong
            gets 1/n as if it were right, and an answer without tokens gets 0.

    Returns:
        One value per row; NaN for an answer without tokens.

    References:
        Wang et al. 2025, arXiv:2406.09179 (after Carlini et al. 2021, arXiv:2012.07805); Dorna et al. 2025,
        arXiv:2506.12618, and its code.
    """
    strengths = []
    for row in map(_booleans, hits):
        num_tokens = len(row)
        if not num_tokens:
            strengths.append(0.0 if openunlearning else np.nan)
            continue
        wrong = np.flatnonzero(~row)
        num_given = int(wrong[-1]) + 1 if len(wrong) else 0
        strengths.append(1 - (min(num_given, num_tokens - 1) if openunlearning else num_given) / num_tokens)
    return np.array(strengths, dtype=np.float64)


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
def verbatim_memorization(continuations: Sequence[str], generations: Sequence[str], stem: bool = False) -> Floats:
    """How closely a model that is given the start of a text continues it word for word, per row: VerbMem.

    Formula: ROUGE-L F1 of the generation against the true continuation, both cut to the same number of tokens
    (MUSE: 128, greedy) by the caller. MUSE prints 100 times the mean.

    Args:
        continuations: How each text really goes on.
        generations: What the model wrote.
        stem: Compare word stems. MUSE's code compares words as they are; OpenUnlearning compares stems.

    Returns:
        One value per row.

    References:
        Shi et al. 2024, arXiv:2407.06460, criterion C1 (VerbMem), and the authors' code.
    """
    return rouge_scores(continuations, generations, stem)["rougeL_f1"]


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
def knowledge_memorization(
    answers: Sequence[str], generations: Sequence[str], stops: Sequence[str] = STOPS, stem: bool = False
) -> Floats:
    """How well a model answers questions about a text, per row: KnowMem.

    Formula: ROUGE-L F1 of the generation, cut where it goes on to the next question, against the right answer.
    MUSE prints 100 times the mean. Lower is better for forget questions, higher for retain questions.

    Args:
        answers: Right answers.
        generations: What the model wrote.
        stops: A generation ends before the first of these.
        stem: As in `verbatim_memorization`.

    Returns:
        One value per row.

    References:
        Shi et al. 2024, arXiv:2407.06460, criterion C2 (KnowMem), and the authors' code.
    """
    return rouge_scores(answers, [cut_at(text, stops) for text in generations], stem)["rougeL_f1"]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Text before the first stop in it.

    Example:
        >>> cut_at("In Bern. Question: Who?", ["Question:"])
        'In Bern. '
    """
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def _booleans(row: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(row)
    if array.ndim != 1 or not (array.dtype == np.bool_ or array.size == 0):
        raise ValueError(f"expected one boolean per token, got {array.dtype} of shape {array.shape}")
    return array.astype(np.bool_)
