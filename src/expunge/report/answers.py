"""Answers of target, unlearned model and retain model to the same questions, with remaining facts marked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from expunge.records import Section

MAX_CHARACTERS = 600
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
# Control characters and marks that reverse the reading direction could make a page show text that the model did not
# write.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
SampleRow = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One question with the answer of each model; None where a model was not asked."""

    number: int
    question: str
    true_answer: str
    before: str | None
    after: Markup | None
    retain: str | None
    score_before: float | None
    score_after: float | None
    probability_before: float | None
    probability_after: float | None

    @property
    def loss(self) -> float:
        """Loss of score from before to after."""
        return (self.score_before or 0.0) - (self.score_after or 0.0)


def compare(rows: Mapping[str, Sequence[SampleRow]], section: Section) -> list[Answer]:
    """Join the three models' rows of one set on question and answer.

    Words of the true answer that are rare in this set, absent from the question and present in the unlearned model's
    answer are marked: these facts remain.

    Args:
        rows: Role -> per-sample rows.
        section: The set, the columns and the order.

    Returns:
        Highest remaining score first; with order 'lost', answers that lost score, largest loss first.
    """
    target, retain = (_by_text(rows.get(role, ()), section) for role in ("target", "retain"))
    unlearned = [row for row in rows.get("unlearned", ()) if row.get("set") == section.set]
    unlearned = [row for row in unlearned if row.get(section.response) is not None or row.get("nll") is not None]
    rare = _rare_words([str(row.get(section.answer) or "") for row in unlearned])
    answers = []
    for row in unlearned:
        key = (row.get(section.question), row.get(section.answer))
        old, other = target.get(key, {}), retain.get(key, {})
        question, true_answer = str(row.get(section.question) or ""), str(row.get(section.answer) or "")
        remaining = (words_of(true_answer) & rare) - words_of(question)
        after = _text(row, section)
        answers.append(
            Answer(
                number=int(row.get("index") or 0) + 1,
                question=readable(question),
                true_answer=readable(true_answer),
                before=_text(old, section),
                after=None if after is None else mark_words(after, remaining),
                retain=_text(other, section),
                score_before=old.get(section.score),
                score_after=row.get(section.score),
                probability_before=_probability(old),
                probability_after=_probability(row),
            )
        )
    if section.order == "lost":
        return sorted((answer for answer in answers if answer.loss > 0), key=lambda answer: -answer.loss)
    return sorted(answers, key=lambda a: (-_or(a.score_after), -_or(a.probability_after), a.number))


def readable(text: str) -> str:
    """Return text with control and direction marks replaced by a visible character, cut at 600 characters."""
    text = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", text).strip()
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS} more characters)"


def mark_words(text: str, words: set[str]) -> Markup:
    """Escape a text and wrap some of its words in <mark>; words are compared in lower case."""
    pieces, end = [], 0
    for match in _WORD.finditer(text):
        if match.group().lower() in words:
            pieces.append(escape(text[end : match.start()]) + Markup("<mark>{}</mark>").format(match.group()))
            end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])


def _by_text(rows: Iterable[SampleRow], section: Section) -> dict[tuple[Any, Any], SampleRow]:
    return {(row.get(section.question), row.get(section.answer)): row for row in rows if row.get("set") == section.set}


def _text(row: SampleRow, section: Section) -> str | None:
    response = row.get(section.response)
    return None if response is None else readable(str(response))


def _probability(row: SampleRow) -> float | None:
    nll = row.get("nll")
    return None if nll is None else math.exp(-nll)


def _or(number: float | None) -> float:
    return -1.0 if number is None else number


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case."""
    return {word.lower() for word in _WORD.findall(text)}


def _rare_words(answers: Sequence[str]) -> set[str]:
    """Return words of three letters or more that occur in few answers: names, places and titles, not grammar."""
    counts = Counter(word for answer in answers for word in words_of(answer))
    most = max(3, len(answers) // 50)
    return {word for word, count in counts.items() if count <= most and len(word) >= 3}
