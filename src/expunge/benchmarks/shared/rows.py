"""Select rows by set, and check that two measurements are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.benchmarks.base import SampleRow
from expunge.data.chat import common_length
from expunge.errors import IncompatibleError

_FACTS = {
    "split": "split",
    "prompt": "prompt",
    "vocab": "tokenizer",
    "architecture": "model family",
}
"""Settings in which an evaluation and its retain model must agree, and their names in messages."""


def in_set(rows: Sequence[SampleRow], name: str) -> list[SampleRow]:
    """The rows of one set, in order."""
    return [row for row in rows if row["set"] == name]


def check_settings(settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
    """Refuse a retain model that was measured in another way; facts that one side lacks are not compared.

    Raises:
        IncompatibleError: Another split, prompt, tokenizer or model family.
    """
    for fact, words in _FACTS.items():
        ours, theirs = settings.get(fact), retain_settings.get(fact)
        if ours is not None and theirs is not None and ours != theirs:
            if fact == "prompt":
                ours, theirs = _prompts_in_words(settings, retain_settings)
            raise IncompatibleError(
                f"the retain model was measured with another {words}: {theirs}, here it is {ours}.",
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
