"""The same question answered by target, unlearned model and retain model, with what is still told marked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

MAX_CHARACTERS = 600
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
# Control characters and marks that reverse the reading direction could make a page say what the model
# did not.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
SampleRow = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One question with what each model makes of it; None where a model was not asked."""

    number: int
    question: str
    gold: str
    before: str | None
    after: Markup | None
    retain_model: str | None
    rouge_before: float | None
    rouge_after: float | None
    probability_before: float | None
    probability_after: float | None

    @property
    def loss(self) -> float:
        """How much ROUGE fell from before to after."""
        return (self.rouge_before or 0.0) - (self.rouge_after or 0.0)


def compare(
    target: Iterable[SampleRow], unlearned: Iterable[SampleRow], retain_model: Iterable[SampleRow], set_name: str
) -> list[Question]:
    """Join the three models' rows of one set on question and answer, highest remaining ROUGE first.

    Words of the gold answer that are rare in this set, absent from the question and present in the unlearned
    model's answer are marked: these are the facts it still tells.
    """
    before, other = _by_text(target, set_name), _by_text(retain_model, set_name)
    rows = [row for row in unlearned if row.get("set") == set_name]
    rare = _rare_words([str(row.get("answer") or "") for row in rows])
    questions = []
    for row in rows:
        key = (row.get("question"), row.get("answer"))
        old, ref = before.get(key, {}), other.get(key, {})
        question, gold = str(row.get("question") or ""), str(row.get("answer") or "")
        telling = (words_of(gold) & rare) - words_of(question)
        questions.append(
            Question(
                number=int(row.get("index") or 0) + 1,
                question=readable(question),
                gold=readable(gold),
                before=_text(old),
                after=None if _text(row) is None else mark_words(_text(row) or "", telling),
                retain_model=_text(ref),
                rouge_before=old.get("rouge_l_recall"),
                rouge_after=row.get("rouge_l_recall"),
                probability_before=_probability(old),
                probability_after=_probability(row),
            )
        )
    return sorted(questions, key=lambda q: (-_or(q.rouge_after), -_or(q.probability_after), q.number))


def readable(text: str) -> str:
    """Text with control and direction marks made visible, cut at 600 characters."""
    text = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", text).strip()
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS} more characters)"


def mark_words(text: str, words: set[str]) -> Markup:
    """Escape a text and set some of its words into <mark>; the words are compared in lower case."""
    pieces, end = [], 0
    for match in _WORD.finditer(text):
        if match.group().lower() in words:
            pieces.append(escape(text[end : match.start()]) + Markup("<mark>{}</mark>").format(match.group()))
            end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])


def _by_text(rows: Iterable[SampleRow], set_name: str) -> dict[tuple[Any, Any], SampleRow]:
    return {(row.get("question"), row.get("answer")): row for row in rows if row.get("set") == set_name}


def _text(row: SampleRow) -> str | None:
    generation = row.get("generation")
    return None if generation is None else readable(str(generation))


def _probability(row: SampleRow) -> float | None:
    nll = row.get("nll")
    return None if nll is None else math.exp(-nll)


def _or(number: float | None) -> float:
    return -1.0 if number is None else number


def words_of(text: str) -> set[str]:
    """The words of a text in lower case."""
    return {word.lower() for word in _WORD.findall(text)}


def _rare_words(answers: Sequence[str]) -> set[str]:
    """Words of three letters or more that stand in few answers: names, places and titles, not grammar."""
    counts = Counter(word for answer in answers for word in words_of(answer))
    most = max(3, len(answers) // 50)
    return {word for word, count in counts.items() if count <= most and len(word) >= 3}
