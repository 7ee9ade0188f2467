"""Prompts that ask for the answers of forget rows: how they are built and asked, and how responses are scored."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import AfterValidator

from expunge.data.sets import Row, RowSet
from expunge.metrics.leakage import entities, find_leak
from expunge.probes.requests import GenerationRequest
from expunge.probes.session import Session

SampleRow = dict[str, Any]
Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AttackPrompt:
    """A prompt that asks for the answer of one row."""

    view: str
    """Kind of prompt."""
    index: int
    """Position of the row in the forget set."""
    question: str
    true_answer: str
    """The true answer to the prompt."""
    turns: Turns = ()
    """Earlier questions of the conversation and their answers."""
    prefix: str = ""
    """First words of the response."""
    raw: bool = False
    """Continue `question` directly, without the model's prompt format."""
    temperature: float = 0.0
    seeds: tuple[int, ...] = field(default=(0,))
    """Sampling seeds, one per response."""

    @property
    def shown(self) -> str:
        """Everything that the model is shown, as one string."""
        return "\n".join([text for turn in self.turns for text in turn] + [self.question, self.prefix])

    def requests(self, max_new_tokens: int) -> list[GenerationRequest]:
        """Return the generation requests of this prompt."""
        return [
            GenerationRequest(
                set="forget",
                index=self.index,
                question=self.question,
                max_new_tokens=max_new_tokens,
                what=f"{self.view}/{number}",
                raw=self.raw,
                turns=self.turns,
                prefix=self.prefix,
                temperature=self.temperature,
                seed=seed,
            )
            for number, seed in enumerate(self.seeds)
        ]


def ask(session: Session, prompts: Sequence[AttackPrompt], rows: RowSet, max_new_tokens: int) -> list[SampleRow]:
    """Ask all prompts in one call, and return one row per prompt with its most revealing response.

    Returns:
        Rows with the columns `view`, `id`, `group`, `question` (all that the model is shown), `answer`, `response`,
        `leaked` (the novel words that the response contains), `share` and `entity_share` (`metrics.leakage.Leak`; None
        without novel words, or if the prompt fills the model's context).
    """
    responses = session.generate([request for prompt in prompts for request in prompt.requests(max_new_tokens)])
    judged = []
    for prompt in prompts:
        texts = [responses.get(request.key) for request in prompt.requests(max_new_tokens)]
        leaks = [(find_leak(prompt.true_answer, text, prompt.shown), text) for text in texts if text is not None]
        row = sample_row(prompt.view, rows.rows[prompt.index], prompt.shown.strip(), prompt.true_answer)
        if leaks:
            leak, text = max(leaks, key=lambda pair: (pair[0].share or 0.0, pair[0].entity_share or 0.0))
            entity_shares = [share for other, _ in leaks if (share := other.entity_share) is not None]
            row |= {
                "response": text,
                "leaked": ", ".join(leak.leaked),
                "share": leak.share,
                "entity_share": max(entity_shares, default=None),
            }
        judged.append(row)
    return judged


def sample_row(view: str, row: Row, question: str, answer: str) -> SampleRow:
    """Return the record of one row before it has a response."""
    return {
        "view": view,
        "id": row.id,
        "group": row.group or row.id,
        "question": question,
        "answer": answer,
        "response": None,
        "leaked": "",
        "share": None,
        "entity_share": None,
        "score": None,
    }


def needs_fields(*names: str) -> AfterValidator:
    """Return a validator of prompt templates, which raises if one of the fields `{name}` is missing."""

    def check(template: str) -> str:
        if missing := [name for name in names if f"{{{name}}}" not in template]:
            raise ValueError(f"the template must contain {{{missing[0]}}}")
        return template

    return AfterValidator(check)


def fill(template: str, **values: str) -> str:
    """Replace the fields `{name}` of a template; fields that the texts themselves contain are left as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def conversation(rows: Iterable[Row]) -> Turns:
    """Return rows as earlier questions and answers of a conversation."""
    return tuple((row.question, row.answer) for row in rows)


def other_facts(rows: RowSet, seed: int) -> list[list[Row]]:
    """Return, for each row, the other rows of its group in an order that depends on the row and the seed.

    The order does not depend on how many facts are used, so that more facts extend the same list.
    """
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(row.group, []).append(row)
    facts = []
    for row in rows:
        others = [other for other in members[row.group] if other is not row]
        facts.append(random.Random(f"{seed}/{row.id}").sample(others, len(others)))
    return facts


def subjects_of(rows: RowSet) -> dict[str, str]:
    """Return the subject of each group of rows: the name of two or more words that most of its rows contain."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        names = {name for text in (row.question, row.answer) for name in entities(text) if " " in name}
        counts.setdefault(row.group, Counter()).update(sorted(names))
    most_common = {group: count.most_common(1)[0] for group, count in counts.items() if count}
    return {group: name for group, (name, count) in most_common.items() if count > 1}


def hide_name(text: str, name: str) -> str:
    """Replace a name and all its parts in a text."""
    for part in [name, *sorted(name.split(), key=len, reverse=True)]:
        text = text.replace(part, "this person")
    return text


def by_view(rows: Sequence[SampleRow]) -> Mapping[str, list[SampleRow]]:
    """Return the rows of each kind of prompt, without the column `view`."""
    views: dict[str, list[SampleRow]] = {}
    for row in rows:
        views.setdefault(row["view"], []).append({name: value for name, value in row.items() if name != "view"})
    return views
