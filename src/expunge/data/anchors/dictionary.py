"""The anchor dictionary: expressions that only the forget text has, each with generic stand-ins of the same kind.

'Dorothy' -> ['Clara', 'Nora']: what Who's Harry Potter puts in an expression's place before it asks a model what
anyone would write there (Eldan & Russinovich 2023, arXiv:2310.02238, section 3.2).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import DataError

Anchors = dict[str, list[str]]
"""Expression -> stand-ins."""


def check_anchors(value: Any, where: str) -> Anchors:
    """An anchor dictionary from outside; a single text as value is taken for a list of one.

    Args:
        value: What was read.
        where: Place that an error names.

    Raises:
        DataError: It is no mapping or empty, a key or a stand-in is empty or no text, or a key stands for itself.
    """
    if not isinstance(value, Mapping) or not value:
        raise DataError(
            f"{where} holds no anchors.", fix='Write them as {"expression": ["stand-in", ...], ...} with at least one.'
        )
    anchors: Anchors = {}
    for key, given in value.items():
        problem = entry_problem(key, given)
        if problem:
            raise DataError(f"{where}: the anchor {key!r} {problem}.", fix="Correct the entry or remove it.")
        anchors[key] = list(dict.fromkeys([given] if isinstance(given, str) else given))
    return clean_up(anchors)


def entry_problem(key: Any, given: Any) -> str:
    """What is wrong with one entry, in words that follow its key; empty where nothing is."""
    if not isinstance(key, str) or not key.strip():
        return "is not a text with letters in it"
    if key != " ".join(key.split()):
        return "has spaces at an end, or more than one between two words"
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list) or not values:
        return f"has {given!r} where a stand-in or a list of them belongs"
    for each in values:
        if not isinstance(each, str):
            return f"has the stand-in {each!r}, which is not text"
        if not each.strip():
            return "has an empty stand-in"
        if each.strip().casefold() == key.casefold():
            return "stands for itself"
    return ""


def clean_up(anchors: Anchors) -> Anchors:
    """Drop entries that others cover: a phrase whose words are all keys, and "X's" where X is a key."""
    kept: Anchors = {}
    for key, values in anchors.items():
        words = key.split()
        covered = len(words) > 1 and all(word in anchors for word in words)
        possessive = re.fullmatch(r"(.+)['’]s", key)
        if not covered and not (possessive and possessive[1] in anchors):
            kept[key] = values
    return kept


def merge(parts: Iterable[Anchors]) -> Anchors:
    """One dictionary of several; a key that several have keeps all their stand-ins, in order."""
    merged: Anchors = {}
    for part in parts:
        for key, values in part.items():
            merged[key] = list(dict.fromkeys([*merged.get(key, []), *values]))
    return merged


def read_anchors(path: Path) -> Anchors:
    """Read an anchor dictionary from a JSON file.

    Raises:
        DataError: The file does not exist, is no JSON, or holds a bad entry.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"the anchor file {path} does not exist.", fix="Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the anchor file {path} cannot be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno} is not valid JSON: {error.msg}.",
            fix='Write one object: {"expression": ["stand-in", ...], ...}.',
        ) from error
    return check_anchors(value, str(path))


@dataclass(frozen=True, slots=True)
class Found:
    """One place of a text at which an anchor stands."""

    key: str
    start: int
    end: int


def find_anchors(text: str, anchors: Anchors) -> Iterator[Found]:
    """Where anchors stand in a text, from left to right, as whole words, the longest where several fit.

    A space in a key also matches a line break. Case counts.
    """
    keys = tuple(anchors)
    if keys:
        for match in _pattern(keys).finditer(text):
            yield Found(" ".join(match[0].split()), match.start(), match.end())


@functools.lru_cache(maxsize=8)
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    # Grouped by first letter, so that most places of a text are given up after one comparison.
    groups: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: (-len(key), key)):
        spelled = r"\s+".join(re.escape(word) for word in key.split())
        groups.setdefault(re.escape(key[0]), []).append(spelled)
    parts = (f"(?={first})(?:{'|'.join(group)})" for first, group in groups.items())
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")
