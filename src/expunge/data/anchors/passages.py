"""Passages that break off before an anchor: what a model is asked to go on with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from expunge.data.anchors.dictionary import Anchors, find_anchors


@dataclass(frozen=True, slots=True)
class Passage:
    """The beginning of a passage, and the anchor that comes next in the text."""

    prompt: str
    key: str


def anchor_passages(
    texts: Iterable[str], anchors: Anchors, *, num: int, prompt_words: int = 40, seed: int = 0
) -> list[Passage]:
    """Places where an anchor is due that the words before it do not name.

    Args:
        texts: The forget texts.
        anchors: The anchor dictionary.
        num: Keep at most this many, drawn without replacement.
        prompt_words: Words before the anchor.
        seed: Seed of the draw; the passages stay in the order of the texts.
    """
    places = [place for text in texts for place in _places(text, anchors, prompt_words)]
    if len(places) <= num:
        return places
    chosen = np.random.default_rng(seed).choice(len(places), size=num, replace=False)
    return [places[i] for i in sorted(chosen)]


def _places(text: str, anchors: Anchors, prompt_words: int) -> Iterator[Passage]:
    starts = np.array([match.start() for match in re.finditer(r"\S+", text)], dtype=np.int64)
    last_seen: dict[str, int] = {}
    for found in find_anchors(text, anchors):
        before = int(np.searchsorted(starts, found.start))
        begin = starts[before - prompt_words] if before >= prompt_words else -1
        told = last_seen.get(found.key, -1) >= begin
        last_seen[found.key] = found.start
        # Only where a word begins: a prompt that ends after a quotation mark or a hyphen is another task.
        if begin >= 0 and not told and before < len(starts) and starts[before] == found.start:
            yield Passage(text[begin : found.start].rstrip(), found.key)
