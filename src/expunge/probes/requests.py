"""Requests to a model and their results, as plain values that do not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Key = tuple[str, int, str]
"""(set, index of the row in the set, name of the text within the row)."""


@dataclass(frozen=True)
class ScoreRequest:
    """Request for the log-probability of each token of `answer` after `question`."""

    set: str
    index: int
    """Index of the row in its set."""
    what: str
    """Name of the text within the row: 'answer', 'paraphrased' or 'perturbed/<k>'."""
    question: str
    answer: str
    raw: bool = False
    """Append `answer` directly to `question`: no prompt format, no end-of-sequence token."""
    detail: bool = False
    """Also return top-1 hits and vocabulary moments."""
    hidden: bool = False
    """Also return the last hidden states, which are too large to be cached."""

    @property
    def key(self) -> Key:
        """Key of the result."""
        return self.set, self.index, self.what


@dataclass(frozen=True)
class GenerationRequest:
    """Request for a generated answer to `question`."""

    set: str
    index: int
    """Index of the row in its set."""
    question: str
    max_new_tokens: int
    what: str = "answer"
    """Name of the answer, which distinguishes several answers to one row."""
    raw: bool = False
    """Continue `question` directly, without a prompt format."""
    turns: tuple[tuple[str, str], ...] = ()
    """Earlier questions of the conversation and their answers."""
    prefix: str = ""
    """First words of the answer, appended to the prompt; not part of the returned answer."""
    temperature: float = 0.0
    """0 for greedy decoding."""
    seed: int = 0
    """Sampling seed of this answer if the temperature is above 0."""
    draft: str = ""
    """Expected answer, such as the right one. It speeds up greedy decoding and does not change the result: the first
    tokens of a scored draft need not be generated as long as each is the most likely one."""

    @property
    def key(self) -> Key:
        """Key of the result."""
        return self.set, self.index, self.what


@dataclass(frozen=True)
class TokenScores:
    """Scores of the N tokens of an answer from one forward pass, including the end-of-sequence token if it has one."""

    logp: Array
    """(N,) natural log of the probability of each token."""
    top1: Array | None = None
    """(N,) whether the token is the most likely one."""
    mean: Array | None = None
    """(N,) sum over the vocabulary of p(z) log p(z): the mean log-probability under the model itself."""
    variance: Array | None = None
    """(N,) variance of log p(z) under p(z)."""
    hidden: Array | None = None
    """(N, D) hidden states, after the last layer and norm, at the positions that predict the tokens."""

    def __len__(self) -> int:
        return len(self.logp)

    @property
    def detailed(self) -> bool:
        """Whether hits and moments are present."""
        return self.top1 is not None
