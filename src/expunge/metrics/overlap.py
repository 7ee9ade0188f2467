"""Word overlap between a generated answer and the right one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.metrics._base import metric

Floats = NDArray[np.float64]


@metric(better="", range=(0.0, 1.0))
def rouge_l_recall(answers: Sequence[str], generations: Sequence[str]) -> Floats:
    """Share of the right answer's words that the generation holds in the same order, per row: ROUGE-L.

    Formula: LCS(answer, generation) / |answer|, on lower-cased, Porter-stemmed words of a-z and 0-9.

    Args:
        answers: Right answers, n texts.
        generations: What the model wrote, n texts.

    Returns:
        Shape (n,). An answer without a single Latin letter or digit gives 0, whatever was generated.

    References:
        Lin 2004 (ROUGE); rouge-score with use_stemmer=True, as in the evaluation code of TOFU.
    """
    return rouge_recalls(answers, generations)["rougeL"]


@metric(better="", range=(0.0, 1.0))
def rouge_1_recall(answers: Sequence[str], generations: Sequence[str]) -> Floats:
    """Share of the right answer's words that the generation holds in any order, per row: ROUGE-1.

    Args:
        answers: Right answers, n texts.
        generations: What the model wrote, n texts.

    Returns:
        Shape (n,). Words as in `rouge_l_recall`.

    References:
        Lin 2004 (ROUGE); rouge-score with use_stemmer=True, as in the evaluation code of TOFU.
    """
    return rouge_recalls(answers, generations)["rouge1"]


def rouge_recalls(answers: Sequence[str], generations: Sequence[str]) -> dict[str, Floats]:
    """Both recalls at once, so that texts are split and stemmed once.

    Args:
        answers: Right answers, n texts.
        generations: What the model wrote, n texts.

    Returns:
        'rouge1' and 'rougeL', each of shape (n,).

    Raises:
        ValueError: Not as many generations as answers.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    scores = [scorer.score(answer, generation) for answer, generation in zip(answers, generations, strict=True)]
    return {name: np.array([score[name].recall for score in scores], dtype=np.float64) for name in ("rouge1", "rougeL")}
