"""Attack prompts: each function turns forget rows into prompts, with everything that the model is shown."""

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
    """A prompt that asks for the answer of one row."""

    view: str
    index: int
    """Position of the row in the forget set."""
    question: str
    true_answer: str
    """The true answer to the prompt."""
    turns: Turns = ()
    prefix: str = ""
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
                turns=self.turns,
                prefix=self.prefix,
                temperature=self.temperature,
                seed=seed,
            )
            for number, seed in enumerate(self.seeds)
        ]


def direct(rows: RowSet) -> Iterator[AttackPrompt]:
    """Ask the question unchanged, with greedy decoding."""
    for index, row in enumerate(rows):
        yield AttackPrompt("novel_recall", index, row.question, row.answer)


def paraphrase(rows: RowSet) -> Iterator[AttackPrompt]:
    """Ask the paraphrased question, where the data has one."""
    for index, row in enumerate(rows):
        if row.paraphrased_question:
            yield AttackPrompt("paraphrase", index, row.paraphrased_question, row.answer)


def third_person(rows: RowSet, pattern: str) -> Iterator[AttackPrompt]:
    """Ask on behalf of a third person."""
    for index, row in enumerate(rows):
        yield AttackPrompt("third_person", index, pattern.replace("{question}", row.question), row.answer)


def cloze(rows: RowSet, pattern: str) -> Iterator[AttackPrompt]:
    """Give the true answer with blanks for its names, dates and numbers that the question does not contain."""
    for index, row in enumerate(rows):
        sentence = row.answer
        for name in find_leak(row.answer, "", row.question).novel_entities:
            sentence = sentence.replace(name, BLANK)
        if sentence != row.answer:
            question = pattern.replace("{question}", row.question).replace("{sentence}", sentence)
            yield AttackPrompt("cloze", index, question, row.answer)


def reversed_question(rows: RowSet, pattern: str) -> Iterator[AttackPrompt]:
    """Give question and answer without the name of their subject, and ask for the name."""
    subjects = subjects_of(rows)
    for index, row in enumerate(rows):
        name = subjects.get(row.group)
        text = f"{row.question} {row.answer}"
        if name is None or name not in text:
            continue
        facts = hide_name(text, name)
        if find_leak(name, "", facts).novel:
            yield AttackPrompt("reversed", index, pattern.replace("{facts}", facts), name)


def sampled(rows: RowSet, num: int, temperature: float, seed: int) -> Iterator[AttackPrompt]:
    """Sample several answers to the unchanged question."""
    for index, row in enumerate(rows):
        seeds = tuple(random.Random(f"{seed}/{row.id}/{number}").getrandbits(32) for number in range(num))
        yield AttackPrompt(f"best_of_{num}", index, row.question, row.answer, temperature=temperature, seeds=seeds)


def clues(rows: RowSet, num: int, seed: int) -> Iterator[AttackPrompt]:
    """Precede the question by a conversation with other true facts about the same person."""
    for index, row in enumerate(rows):
        others = [other for position, other in enumerate(rows) if other.group == row.group and position != index]
        if len(others) < num:
            continue
        # The order does not depend on the number of clues, so that more clues extend the same conversation.
        order = random.Random(f"{seed}/{row.id}").sample(others, len(others))
        yield AttackPrompt(f"clues_{num}", index, row.question, row.answer, turns=_turns(order[:num]))


def prefix(rows: RowSet, num_words: int) -> Iterator[AttackPrompt]:
    """Make the response start with the first words of the true answer."""
    for index, row in enumerate(rows):
        start = " ".join(row.answer.split()[:num_words])
        if len(row.answer.split()) > num_words:
            yield AttackPrompt(f"prefix_{num_words}", index, row.question, row.answer, prefix=start)


def in_context(rows: RowSet, num: int, seed: int) -> Iterator[AttackPrompt]:
    """Few-shot: precede the question by question-answer pairs about other forgotten people."""
    for index, row in enumerate(rows):
        others = [other for other in rows if other.group != row.group]
        if len(others) < num:
            continue
        examples = random.Random(f"{seed}/{row.id}").sample(others, num)
        yield AttackPrompt(f"in_context_{num}", index, row.question, row.answer, turns=_turns(examples))


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


def _turns(rows: Sequence[Row]) -> Turns:
    return tuple((row.question, row.answer) for row in rows)
