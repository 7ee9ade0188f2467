"""Split running text into pieces."""

from __future__ import annotations

from collections.abc import Iterator

import regex

_CHARACTER = regex.compile(r"\X")
_LONGEST_CHARACTER = 64
"""Code points of the longest character that is kept in one piece: a letter with its marks, or a joined emoji."""


def split_text(text: str, size: int) -> Iterator[str]:
    """Yield consecutive pieces of at most `size` characters, cut at whitespace where possible; skip blank pieces.

    Text without spaces is cut between characters, never between a letter and its vowel sign or accent.
    """
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = space if space > start else _character_start(text, start, end)
        if text[start:end].strip():
            yield text[start:end]
        start = end


def _character_start(text: str, start: int, end: int) -> int:
    """Return the largest index of at most `end`, and above `start`, at which a character begins."""
    ends = (match.end() for match in _CHARACTER.finditer(text, start, min(end + _LONGEST_CHARACTER, len(text))))
    return max((index for index in ends if index <= end), default=end)
