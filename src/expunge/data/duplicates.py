"""Finds forget rows that also stand in the retain set, where training would teach them back."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from expunge.data.sets import Row, RowSet
from expunge.records import Overlap

THRESHOLD = 0.8
MAX_EXAMPLES = 20

# Chinese and Japanese are written without spaces, so there each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")

_Shingles = frozenset[tuple[str, ...]]


def find_overlap(forget: RowSet, retain: RowSet, threshold: float = THRESHOLD) -> Overlap:
    """Count forget rows with an exact or a near duplicate in the retain set.

    Question and answer are compared together, as lower-case words without punctuation. Two rows are exact
    duplicates when their words are equal, and near duplicates when the sets A and B of their pairs of
    neighbouring words have a Jaccard index |A & B| / |A | B| of at least `threshold`. At 0.8, rows of twenty
    words that differ in one word are near duplicates, and the same question about another person is not: the
    highest index between TOFU's forget10 and retain90 is 0.45. A short passage in a long text is not found.

    The search is exact, not sampled. Two sets with Jaccard index of at least t must share one of the
    |A| - ceil(t |A|) + 1 rarest members of A, so only rows that share such a rare pair are compared
    (prefix filter: Chaudhuri et al. 2006; Bayardo et al. 2007).

    Args:
        forget: Rows to look for.
        retain: Rows to look among.
        threshold: Smallest Jaccard index of a near duplicate, above 0 and at most 1.

    Returns:
        Counts of forget rows (one with an exact duplicate is not counted again as near), up to 20 pairs with
        ids and texts, exact ones first, and the definition.

    Example:
        >>> from expunge.data.sets import Row, RowSet
        >>> one = RowSet("forget", (Row("f/0", "Who wrote it?", "Mira did.", "f/0"),))
        >>> two = RowSet("retain", (Row("r/0", "Who wrote it", "mira did", "r/0"),))
        >>> find_overlap(one, two).num_exact
        1
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    kept: dict[tuple[str, ...], Row] = {}
    for row in retain:
        kept.setdefault(_words(row), row)
    exact: list[tuple[float, Row, Row]] = []
    rest: list[tuple[tuple[str, ...], Row]] = []
    for row in forget:
        words = _words(row)
        if words in kept:
            exact.append((1.0, row, kept[words]))
        else:
            rest.append((words, row))
    near = _near(rest, kept, threshold)
    return Overlap(
        num_exact=len(exact),
        num_near=len(near),
        examples=[_example(*found) for found in [*exact, *near][:MAX_EXAMPLES]],
        how="forget rows whose question and answer, as lower-case words without punctuation, equal those "
        "of a retain row (exact), or whose pairs of neighbouring words have a Jaccard index of at least "
        f"{threshold:g} with those of a retain row (near)",
    )


def _words(row: Row) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", f"{row.question} {row.answer}").casefold()
    # A row of signs alone has no words; it is then its own text, or all such rows would be equal.
    return tuple(_WORD.findall(text)) or (text.strip(),)


def _shingles(words: Sequence[str]) -> _Shingles:
    return frozenset(pairwise(words)) or frozenset([tuple(words)])


def _near(
    forget: Sequence[tuple[tuple[str, ...], Row]], retain: Mapping[tuple[str, ...], Row], threshold: float
) -> list[tuple[float, Row, Row]]:
    """Most similar retain row of each forget row that has one, with the Jaccard index."""
    others = [(_shingles(words), row) for words, row in retain.items()]
    frequency = Counter(shingle for shingles, _ in others for shingle in shingles)
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, (shingles, _) in enumerate(others):
        for shingle in _rarest(shingles, frequency, threshold):
            index[shingle].append(position)
    found = []
    for words, row in forget:
        mine = _shingles(words)
        candidates = {i for shingle in _rarest(mine, frequency, threshold) for i in index.get(shingle, ())}
        best, at = max(((_jaccard(mine, others[i][0]), -i) for i in candidates), default=(0.0, 0))
        if best >= threshold:
            found.append((best, row, others[-at][1]))
    return found


def _rarest(shingles: _Shingles, frequency: Mapping[tuple[str, ...], int], threshold: float) -> list[tuple[str, ...]]:
    # The tiny slack keeps rounding (0.7 * 10 > 7) from making the prefix one too short.
    num = len(shingles) - math.ceil(threshold * len(shingles) - 1e-9) + 1
    return sorted(shingles, key=lambda shingle: (frequency.get(shingle, 0), shingle))[:num]


def _jaccard(a: _Shingles, b: _Shingles) -> float:
    both = len(a & b)
    return both / (len(a) + len(b) - both)


def _example(jaccard: float, forget: Row, retain: Row) -> dict[str, Any]:
    return {
        "forget_id": forget.id,
        "retain_id": retain.id,
        "jaccard": round(jaccard, 3),
        "forget_text": f"{forget.question} {forget.answer}".strip(),
        "retain_text": f"{retain.question} {retain.answer}".strip(),
    }
