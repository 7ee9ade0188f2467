"""Continuations of passages that end just before a term that only the forget text has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from expunge.records import Section
from expunge.report.answers import mark_words, readable, words_of

SampleRow = dict[str, Any]


@dataclass(frozen=True)
class Continuation:
    """One model's text after a passage."""

    text: Markup
    """Its continuation, with the terms of the forget text marked."""
    names: bool
    """Whether it names a term of the forget text that the passage does not."""
    probability: float | None
    """Probability of the text's own continuation."""


@dataclass(frozen=True)
class Completion:
    """One passage with each model's continuation."""

    number: int
    prompt: str
    true_text: str
    """The text's own continuation."""
    by_role: dict[str, Continuation]

    @property
    def names(self) -> bool:
        """Whether the unlearned model still names a term of the forget text."""
        return self.by_role["unlearned"].names


def completions(rows: Mapping[str, Sequence[SampleRow]], section: Section) -> list[Completion]:
    """Join the models' continuations of each passage, worst first.

    Worst are continuations that still name a term of the forget text; among those, and among the rest, those where
    the unlearned model finds the text's own continuation most probable.

    Args:
        rows: Role -> per-sample rows with the columns of the section, 'prompt_anchors' and 'completion_anchors' (terms
            in the passage and in the continuation) and 'logp'.
        section: The set and the columns.
    """
    by_role = {role: _passages(found, section) for role, found in rows.items()}
    result = [
        Completion(
            number=number,
            prompt=readable(str(key[1] or "")),
            true_text=readable(str(key[2] or "")),
            by_role={role: _continuation(found[key], section) for role, found in by_role.items() if key in found},
        )
        for number, key in enumerate(by_role.get("unlearned", {}), start=1)
    ]
    return sorted(result, key=lambda c: (not c.names, -(c.by_role["unlearned"].probability or 0.0), c.number))


def _passages(rows: Sequence[SampleRow], section: Section) -> dict[tuple[Any, ...], SampleRow]:
    return {
        (row.get("index"), row.get(section.question), row.get(section.answer)): row
        for row in rows
        if row.get("set") == section.set and row.get(section.response) is not None
    }


def _continuation(row: SampleRow, section: Section) -> Continuation:
    named = set(row.get("completion_anchors") or ()) - set(row.get("prompt_anchors") or ())
    logp = row.get("logp")
    return Continuation(
        text=mark_words(readable(str(row[section.response])), {word for term in named for word in words_of(term)}),
        names=bool(named),
        probability=None if logp is None else math.exp(logp),
    )
