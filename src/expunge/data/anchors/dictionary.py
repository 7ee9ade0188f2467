"""Anchor dictionaries: expressions that only the forget text has, each with generic stand-ins of the same kind.

An example is 'Dorothy' -> ['Clara', 'Nora']. The method Who's Harry Potter replaces expressions by stand-ins to get
generic predictions from a model (Eldan & Russinovich 2023, arXiv:2310.02238, section 3.2).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.data.sources.readers import parse_json, read_text
from expunge.errors import DataError

Anchors = dict[str, list[str]]
"""Mapping of expressions to their stand-ins."""


def check_anchors(value: Any, source: str) -> Anchors:
    """Check an anchor dictionary and return it cleaned up; a single string counts as a list of one stand-in.

    Args:
        value: Parsed content of the source.
        source: Name of the source, for error messages.

    Raises:
        DataError: `value` is no mapping or empty, a key or a stand-in is empty or no string, or a stand-in equals
            its key.
    """
    if not isinstance(value, Mapping) or not value:
        raise DataError(
            f"{source} contains no anchors.",
            fix='Write them as {"expression": ["stand-in", ...], ...} with at least one expression.',
        )
    anchors: Anchors = {}
    for key, stand_ins in value.items():
        problem = entry_problem(key, stand_ins)
        if problem:
            raise DataError(f"{source}: the anchor {key!r} {problem}.", fix="Correct the entry or remove it.")
        anchors[key] = list(dict.fromkeys([stand_ins] if isinstance(stand_ins, str) else stand_ins))
    return drop_covered(anchors)


def entry_problem(key: Any, stand_ins: Any) -> str:
    """Return the problem of an entry as a phrase that follows its key, or "" if the entry is valid."""
    if not isinstance(key, str) or not key.strip():
        return "must be a non-empty string"
    if key != " ".join(key.split()):
        return "has surrounding or repeated spaces"
    values = [stand_ins] if isinstance(stand_ins, str) else stand_ins
    if not isinstance(values, list) or not values:
        return f"has {stand_ins!r} instead of a stand-in or a list of stand-ins"
    for value in values:
        if not isinstance(value, str):
            return f"has the stand-in {value!r}, which is not a string"
        if not value.strip():
            return "has an empty stand-in"
        if value.strip().casefold() == key.casefold():
            return "is its own stand-in"
    return ""


def drop_covered(anchors: Anchors) -> Anchors:
    """Drop entries that other entries cover: a phrase of which every word is a key, and "X's" if X is a key."""
    remaining: Anchors = {}
    for key, stand_ins in anchors.items():
        words = key.split()
        covered = len(words) > 1 and all(word in anchors for word in words)
        possessive = re.fullmatch(r"(.+)['’]s", key)
        if not covered and not (possessive and possessive[1] in anchors):
            remaining[key] = stand_ins
    return remaining


def merge_anchors(dictionaries: Iterable[Anchors]) -> Anchors:
    """Merge dictionaries; a key of several has the stand-ins of all, in order and without repetition."""
    merged: Anchors = {}
    for anchors in dictionaries:
        for key, stand_ins in anchors.items():
            merged[key] = list(dict.fromkeys([*merged.get(key, []), *stand_ins]))
    return merged


def read_anchors(path: Path) -> Anchors:
    """Read an anchor dictionary from a JSON file.

    Raises:
        DataError: The file does not exist, is not JSON, or has an invalid entry.
    """
    value = parse_json(path, read_text(path), allowed='Allowed: one object, {"expression": ["stand-in", ...], ...}.')
    return check_anchors(value, str(path))


@dataclass(frozen=True, slots=True)
class AnchorMatch:
    """One occurrence of an anchor in a text."""

    key: str
    start: int
    end: int


def find_anchors(text: str, anchors: Anchors) -> Iterator[AnchorMatch]:
    """Yield the occurrences of anchors in a text from left to right, as whole words, preferring the longest.

    A space in a key also matches a line break. Matching is case-sensitive.
    """
    keys = tuple(anchors)
    if keys:
        for match in _pattern(keys).finditer(text):
            yield AnchorMatch(" ".join(match[0].split()), match.start(), match.end())


@functools.lru_cache(maxsize=8)
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    # Alternatives are grouped by first letter, so that most positions fail after one comparison.
    groups: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: (-len(key), key)):
        alternative = r"\s+".join(re.escape(word) for word in key.split())
        groups.setdefault(re.escape(key[0]), []).append(alternative)
    branches = (f"(?={letter})(?:{'|'.join(group)})" for letter, group in groups.items())
    return re.compile(rf"(?<!\w)(?:{'|'.join(branches)})(?!\w)")
