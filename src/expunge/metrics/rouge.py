"""Word overlap between a generated answer and the right one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import metric

Floats = NDArray[np.float64]


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
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


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
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


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
def rouge_l_f1(answers: Sequence[str], generations: Sequence[str], stem: bool = True) -> Floats:
    """Agreement of answer and generation in the same words in the same order, per row: ROUGE-L F1.

    Unlike recall it falls when the generation says more than was asked.

    Formula: 2PR / (P + R), with P = LCS / |generation| and R = LCS / |answer|.

    Args:
        answers: Right answers, n texts.
        generations: What the model wrote, n texts.
        stem: Compare Porter stems of words; False compares words as they are.

    Returns:
        Shape (n,); 0 where either text is without a Latin letter or digit.

    References:
        Lin 2004 (ROUGE), equations 2-4 with beta = 1; rouge-score.
    """
    return rouge_scores(answers, generations, stem)["rougeL_f1"]


@metric(better="", range=(0.0, 1.0), needs=("answer", "generation"))
def rouge_1_f1(answers: Sequence[str], generations: Sequence[str], stem: bool = True) -> Floats:
    """Agreement of answer and generation in the same words in any order, per row: ROUGE-1 F1.

    Args:
        answers: Right answers, n texts.
        generations: What the model wrote, n texts.
        stem: As in `rouge_l_f1`.

    Returns:
        Shape (n,).

    References:
        Lin 2004 (ROUGE); rouge-score.
    """
    return rouge_scores(answers, generations, stem)["rouge1_f1"]


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
    scores = rouge_scores(answers, generations)
    return {name: scores[f"{name}_recall"] for name in ("rouge1", "rougeL")}


def rouge_scores(answers: Sequence[str], generations: Sequence[str], stem: bool = True) -> dict[str, Floats]:
    """Recall and F1 of ROUGE-1 and ROUGE-L at once.

    Args:
        answers: Right answers, n texts.
        generations: What the model wrote, n texts.
        stem: Compare Porter stems of words; False compares words as they are.

    Returns:
        'rouge1_recall', 'rouge1_f1', 'rougeL_recall' and 'rougeL_f1', each of shape (n,).

    Raises:
        ValueError: Not as many generations as answers.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=_Words(stem))
    scores = [scorer.score(answer, generation) for answer, generation in zip(answers, generations, strict=True)]
    return {
        f"{name}_{part}": np.array([getattr(score[name], field) for score in scores], dtype=np.float64)
        for name in ("rouge1", "rougeL")
        for part, field in (("recall", "recall"), ("f1", "fmeasure"))
    }


class _Words:
    """Words as rouge-score splits them. Each is stemmed once: stems are most of what ROUGE costs."""

    def __init__(self, stem: bool) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = SimpleNamespace(stem=lru_cache(2**16)(PorterStemmer().stem)) if stem else None

    def tokenize(self, text: str) -> list[str]:
        """Words of a text, in order."""
        from rouge_score.tokenize import tokenize

        return list(tokenize(text, self._stemmer))
