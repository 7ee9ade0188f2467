"""Split running text into pieces."""

from __future__ import annotations

from collections.abc import Iterator


def split_text(text: str, size: int) -> Iterator[str]:
    """Yield consecutive pieces of at most `size` characters, cut at whitespace where possible; skip blank pieces."""
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = space if space > start else end
        if text[start:end].strip():
            yield text[start:end]
        start = end
