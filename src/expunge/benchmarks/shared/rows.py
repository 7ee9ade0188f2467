"""Select rows by set."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.benchmarks.base import SampleRow


def in_set(rows: Sequence[SampleRow], name: str) -> list[SampleRow]:
    """Return the rows of one set, in their order."""
    return [row for row in rows if row["set"] == name]
