"""Split running text into passages."""

from __future__ import annotations

from collections.abc import Iterator


def split(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters, cut at spaces where there are any."""
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = space if space > start else end
        if text[start:end].strip():
            yield text[start:end]
        start = end
