"""Select rows by set, and check that two measurements are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.errors import IncompatibleError

_COMPARED_SETTINGS = {
    "split": "split",
    "prompt": "prompt",
    "vocab": "tokenizer",
    "architecture": "model family",
}
"""Settings in which a measurement and its retain model's must agree -> their names in messages."""


def in_set(rows: Sequence[SampleRow], name: str) -> list[SampleRow]:
    """Return the rows of one set, in their order."""
    return [row for row in rows if row["set"] == name]


def check_settings(settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
    """Raise if the retain model was measured in another way; settings that one side lacks are not compared.

    Raises:
        IncompatibleError: Another split, prompt, tokenizer or model family.
    """
    for key, name in _COMPARED_SETTINGS.items():
        ours, theirs = settings.get(key), retain_settings.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise IncompatibleError(
                f"the retain model was measured with another {name}: {theirs}, here it is {ours}.",
                fix="Give the retain model of the same split, base model and prompt, or its results.",
            )
