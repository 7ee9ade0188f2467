"""Find forget rows with a duplicate in the retain set, where training would teach them again."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import regex

from expunge.data.sets import Row, RowSet
from expunge.metrics.words import words
from expunge.records import Overlap

THRESHOLD = 0.8
MAX_EXAMPLES = 20

_WORD = regex.compile(r"[\w\p{N}\p{M}]+")

_Shingles = frozenset[tuple[str, ...]]


def find_overlap(forget: RowSet, retain: RowSet, threshold: float = THRESHOLD) -> Overlap:
    """Count the forget rows that have an exact or a near duplicate in the retain set.

    Question and answer are compared together, as lower-case words without punctuation; in scripts other than Latin,
    words are those of `metrics.words`. Two rows are exact duplicates if their words are equal. They are near
    duplicates if the sets A and B of their pairs of neighbouring words have a Jaccard index |A & B| / |A | B| of at
    least `threshold`. At 0.8, rows of twenty words that differ in one word are near duplicates, and the same question
    about another person is not: the highest index between TOFU's forget10 and retain90 is 0.45. A short passage inside
    a long text is not found.

    The search is exact, not sampled. Two sets with a Jaccard index of at least t must share one of the
    |A| - ceil(t |A|) + 1 rarest members of A, so only rows that share such a rare pair are compared
    (prefix filter: Chaudhuri et al. 2006; Bayardo et al. 2007).

    Args:
        forget: Rows to find duplicates of.
        retain: Rows to search.
        threshold: Smallest Jaccard index of a near duplicate, above 0 and at most 1.

    Returns:
        Counts of forget rows (a row with an exact duplicate is not counted as near), up to 20 pairs with ids and
        texts, exact ones first, and the definition.

    Raises:
        ValueError: The threshold is out of range.

    Example:
        >>> from expunge.data.sets import Row, RowSet
        >>> one = RowSet("forget", (Row("f/0", "Who wrote it?", "Mira did.", "f/0"),))
        >>> two = RowSet("retain", (Row("r/0", "Who wrote it", "mira did", "r/0"),))
        >>> find_overlap(one, two).num_exact
        1
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    retain_rows: dict[tuple[str, ...], Row] = {}
    for row in retain:
        retain_rows.setdefault(_words(row), row)
    exact: list[tuple[float, Row, Row]] = []
    unmatched: list[tuple[tuple[str, ...], Row]] = []
    for row in forget:
        row_words = _words(row)
        if row_words in retain_rows:
            exact.append((1.0, row, retain_rows[row_words]))
        else:
            unmatched.append((row_words, row))
    near = _find_near_duplicates(unmatched, retain_rows, threshold)
    return Overlap(
        num_exact=len(exact),
        num_near=len(near),
        examples=[
            {
                "forget_id": forget_row.id,
                "retain_id": retain_row.id,
                "jaccard": round(jaccard, 3),
                "forget_text": f"{forget_row.question} {forget_row.answer}".strip(),
                "retain_text": f"{retain_row.question} {retain_row.answer}".strip(),
            }
            for jaccard, forget_row, retain_row in [*exact, *near][:MAX_EXAMPLES]
        ],
        how="forget rows whose question and answer, as lower-case words without punctuation, equal those "
        "of a retain row (exact), or whose pairs of neighbouring words have a Jaccard index of at least "
        f"{threshold:g} with those of a retain row (near)",
    )


def _words(row: Row) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", f"{row.question} {row.answer}").casefold()
    # A row of punctuation alone has no words. It is compared by its text, or all such rows would be equal.
    return tuple(words(text, _WORD.findall)) or (text.strip(),)


def _shingles(row_words: Sequence[str]) -> _Shingles:
    return frozenset(pairwise(row_words)) or frozenset([tuple(row_words)])


def _find_near_duplicates(
    forget: Sequence[tuple[tuple[str, ...], Row]], retain: Mapping[tuple[str, ...], Row], threshold: float
) -> list[tuple[float, Row, Row]]:
    """Return the Jaccard index, the forget row and its most similar retain row for every near duplicate."""
    retain_shingles = [(_shingles(row_words), row) for row_words, row in retain.items()]
    frequency = Counter(shingle for shingles, _ in retain_shingles for shingle in shingles)
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, (shingles, _) in enumerate(retain_shingles):
        for shingle in _rarest_shingles(shingles, frequency, threshold):
            index[shingle].append(position)
    near = []
    for row_words, row in forget:
        shingles = _shingles(row_words)
        candidates = {i for shingle in _rarest_shingles(shingles, frequency, threshold) for i in index.get(shingle, ())}
        # The negative index prefers the first of several equally similar retain rows.
        jaccard, negative = max(((_jaccard(shingles, retain_shingles[i][0]), -i) for i in candidates), default=(0.0, 0))
        if jaccard >= threshold:
            near.append((jaccard, row, retain_shingles[-negative][1]))
    return near


def _rarest_shingles(
    shingles: _Shingles, frequency: Mapping[tuple[str, ...], int], threshold: float
) -> list[tuple[str, ...]]:
    """Return the prefix of the prefix filter: rows without any of these shingles in common cannot be similar."""
    # The small slack keeps rounding errors (0.7 * 10 > 7) from making the prefix too short.
    num = len(shingles) - math.ceil(threshold * len(shingles) - 1e-9) + 1
    return sorted(shingles, key=lambda shingle: (frequency.get(shingle, 0), shingle))[:num]


def _jaccard(a: _Shingles, b: _Shingles) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
