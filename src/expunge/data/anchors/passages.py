"""Find passages that end just before an anchor, for a model to continue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from expunge.data.anchors.dictionary import Anchors, find_anchors


@dataclass(frozen=True, slots=True)
class Passage:
    """The words before an anchor, and the anchor."""

    prompt: str
    key: str


def anchor_passages(
    texts: Iterable[str], anchors: Anchors, *, num: int, prompt_words: int = 40, seed: int = 0
) -> list[Passage]:
    """Return passages that end just before an anchor and do not mention it.

    Args:
        texts: The forget texts.
        anchors: The anchor dictionary.
        num: Maximum number of passages; if there are more, they are sampled without replacement.
        prompt_words: Number of words before the anchor.
        seed: Seed of the sampling; the passages stay in the order of the texts.
    """
    passages: list[Passage] = []
    for text in texts:
        word_starts = np.array([match.start() for match in re.finditer(r"\S+", text)], dtype=np.int64)
        last_mention: dict[str, int] = {}
        for match in find_anchors(text, anchors):
            word = int(np.searchsorted(word_starts, match.start))
            begin = word_starts[word - prompt_words] if word >= prompt_words else -1
            mentioned = last_mention.get(match.key, -1) >= begin
            last_mention[match.key] = match.start
            # An anchor inside a word does not count: a prompt that ends after a quotation mark or a hyphen is a
            # different task.
            starts_word = word < len(word_starts) and word_starts[word] == match.start
            if begin >= 0 and not mentioned and starts_word:
                passages.append(Passage(text[begin : match.start].rstrip(), match.key))
    if len(passages) <= num:
        return passages
    chosen = np.random.default_rng(seed).choice(len(passages), size=num, replace=False)
    return [passages[i] for i in sorted(chosen)]
