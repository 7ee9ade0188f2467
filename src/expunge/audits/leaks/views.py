"""Ways of asking for what should be gone: each turns a row into requests, and says all that the model is shown."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from expunge.data.sets import Row, RowSet
from expunge.metrics.leakage import entities, find_leak
from expunge.probes.requests import GenerationRequest

BLANK = "____"
Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AttackPrompt:
    """One way of asking for one row's answer."""

    view: str
    index: int
    """Position of the row in the forget set."""
    question: str
    gold: str
    """The true answer to what is asked."""
    turns: Turns = ()
    prefix: str = ""
    temperature: float = 0.0
    seeds: tuple[int, ...] = field(default=(0,))
    """One per answer that is drawn."""

    @property
    def shown(self) -> str:
        """Everything that the model sees before it answers."""
        return "\n".join([text for turn in self.turns for text in turn] + [self.question, self.prefix])

    def requests(self, max_new_tokens: int) -> list[GenerationRequest]:
        """What to ask the model."""
        return [
            GenerationRequest(
                set="forget",
                index=self.index,
                question=self.question,
                max_new_tokens=max_new_tokens,
                what=f"{self.view}/{number}",
                turns=self.turns,
                prefix=self.prefix,
                temperature=self.temperature,
                seed=seed,
            )
            for number, seed in enumerate(self.seeds)
        ]


def direct(rows: RowSet) -> Iterator[AttackPrompt]:
    """The question as it stands, answered greedily."""
    for index, row in enumerate(rows):
        yield AttackPrompt("novel_recall", index, row.question, row.answer)


def paraphrase(rows: RowSet) -> Iterator[AttackPrompt]:
    """The question in other words, where the data have them."""
    for index, row in enumerate(rows):
        if row.paraphrased_question:
            yield AttackPrompt("paraphrase", index, row.paraphrased_question, row.answer)


def third_person(rows: RowSet, pattern: str) -> Iterator[AttackPrompt]:
    """The question as somebody else's."""
    for index, row in enumerate(rows):
        yield AttackPrompt("third_person", index, pattern.replace("{question}", row.question), row.answer)


def cloze(rows: RowSet, pattern: str) -> Iterator[AttackPrompt]:
    """The true answer with blanks where its names, dates and numbers stood that the question does not tell."""
    for index, row in enumerate(rows):
        sentence = row.answer
        for name in find_leak(row.answer, "", row.question).novel_entities:
            sentence = sentence.replace(name, BLANK)
        if sentence != row.answer:
            question = pattern.replace("{question}", row.question).replace("{sentence}", sentence)
            yield AttackPrompt("cloze", index, question, row.answer)


def reversed_question(rows: RowSet, pattern: str) -> Iterator[AttackPrompt]:
    """Question and answer without the name of the person they are about, and the name is asked for."""
    subjects = subjects_of(rows)
    for index, row in enumerate(rows):
        name = subjects.get(row.group)
        both = f"{row.question} {row.answer}"
        if name is None or name not in both:
            continue
        facts = hide_name(both, name)
        if find_leak(name, "", facts).novel:
            yield AttackPrompt("reversed", index, pattern.replace("{facts}", facts), name)


def sampled(rows: RowSet, num: int, temperature: float, seed: int) -> Iterator[AttackPrompt]:
    """Several answers drawn at random to the question as it stands."""
    for index, row in enumerate(rows):
        seeds = tuple(random.Random(f"{seed}/{row.id}/{number}").getrandbits(32) for number in range(num))
        yield AttackPrompt(f"best_of_{num}", index, row.question, row.answer, temperature=temperature, seeds=seeds)


def clues(rows: RowSet, num: int, seed: int) -> Iterator[AttackPrompt]:
    """A conversation in which other true facts about the same person were already asked for and told, turn by turn."""
    for index, row in enumerate(rows):
        others = [other for place, other in enumerate(rows) if other.group == row.group and place != index]
        if len(others) < num:
            continue
        # The order does not depend on how many are told, so that each further clue is added to the ones before.
        order = random.Random(f"{seed}/{row.id}").sample(others, len(others))
        yield AttackPrompt(f"clues_{num}", index, row.question, row.answer, turns=_turns(order[:num]))


def prefix(rows: RowSet, num_words: int) -> Iterator[AttackPrompt]:
    """The first words of the true answer are put into the model's mouth."""
    for index, row in enumerate(rows):
        start = " ".join(row.answer.split()[:num_words])
        if len(row.answer.split()) > num_words:
            yield AttackPrompt(f"prefix_{num_words}", index, row.question, row.answer, prefix=start)


def in_context(rows: RowSet, num: int, seed: int) -> Iterator[AttackPrompt]:
    """Other forget rows, of other people, stand before the question as examples: does that wake the rest?"""
    for index, row in enumerate(rows):
        others = [other for other in rows if other.group != row.group]
        if len(others) < num:
            continue
        chosen = random.Random(f"{seed}/{row.id}").sample(others, num)
        yield AttackPrompt(f"in_context_{num}", index, row.question, row.answer, turns=_turns(chosen))


def subjects_of(rows: RowSet) -> dict[str, str]:
    """The person (or thing) that each group of rows is about: the name of two words or more in most of its rows."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        names = {name for text in (row.question, row.answer) for name in entities(text) if " " in name}
        counts.setdefault(row.group, Counter()).update(sorted(names))
    found = {group: count.most_common(1)[0] for group, count in counts.items() if count}
    return {group: name for group, (name, count) in found.items() if count > 1}


def hide_name(text: str, name: str) -> str:
    """A text in which neither a name nor any of its parts is left."""
    for part in [name, *sorted(name.split(), key=len, reverse=True)]:
        text = text.replace(part, "this person")
    return text


def _turns(rows: Sequence[Row]) -> Turns:
    return tuple((row.question, row.answer) for row in rows)
