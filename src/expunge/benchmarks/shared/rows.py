"""Select rows by set, and check that two measurements are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.data.chat import common_length
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
            if key == "prompt":
                ours, theirs = _prompts_in_words(settings, retain_settings)
            raise IncompatibleError(
                f"the retain model was measured with another {name}: {theirs}, here it is {ours}.",
                fix="Give the retain model of the same split, base model and prompt, or its results.",
            )


def _prompts_in_words(settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the parts of two prompts that differ, for a message; their hashes if a record has no text."""
    ours, theirs = settings.get("prompt_text"), retain_settings.get("prompt_text")
    if not ours or not theirs:
        return str(settings["prompt"]), str(retain_settings["prompt"])
    if ours == theirs:
        return repr(ours), "the same text in other tokens"
    start = max(common_length(ours, theirs) - 30, 0)
    return repr(ours[start : start + 100]), repr(theirs[start : start + 100])
