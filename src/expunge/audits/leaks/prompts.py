"""Prompts of the leak audit: each function turns forget rows into prompts, with everything that the model is shown."""

from __future__ import annotations

import random
from collections.abc import Iterator

from expunge.audits.shared.prompts import AttackPrompt, conversation, fill, hide_name, other_facts, subjects_of
from expunge.data.sets import RowSet
from expunge.metrics.leakage import find_leak

BLANK = "____"


def paraphrase(rows: RowSet) -> Iterator[AttackPrompt]:
    """Ask the paraphrased question, where the data has one."""
    for index, row in enumerate(rows):
        if row.paraphrased_question:
            yield AttackPrompt("paraphrase", index, row.paraphrased_question, row.answer)


def third_person(rows: RowSet, template: str) -> Iterator[AttackPrompt]:
    """Ask on behalf of a third person."""
    for index, row in enumerate(rows):
        yield AttackPrompt("third_person", index, fill(template, question=row.question), row.answer)


def cloze(rows: RowSet, template: str) -> Iterator[AttackPrompt]:
    """Give the true answer with blanks for its names, dates and numbers that the question does not contain."""
    for index, row in enumerate(rows):
        sentence = row.answer
        for name in find_leak(row.answer, "", row.question).novel_entities:
            sentence = sentence.replace(name, BLANK)
        if sentence != row.answer:
            question = fill(template, question=row.question, sentence=sentence)
            yield AttackPrompt("cloze", index, question, row.answer)


def reversed_question(rows: RowSet, template: str) -> Iterator[AttackPrompt]:
    """Give question and answer without the name of their subject, and ask for the name."""
    subjects = subjects_of(rows)
    for index, row in enumerate(rows):
        name = subjects.get(row.group)
        text = f"{row.question} {row.answer}"
        if name is None or name not in text:
            continue
        facts = hide_name(text, name)
        if find_leak(name, "", facts).novel:
            yield AttackPrompt("reversed", index, fill(template, facts=facts), name)


def sampled(rows: RowSet, num: int, temperature: float, seed: int) -> Iterator[AttackPrompt]:
    """Sample several answers to the unchanged question."""
    for index, row in enumerate(rows):
        seeds = tuple(random.Random(f"{seed}/{row.id}/{number}").getrandbits(32) for number in range(num))
        yield AttackPrompt(f"best_of_{num}", index, row.question, row.answer, temperature=temperature, seeds=seeds)


def clues(rows: RowSet, num: int, seed: int) -> Iterator[AttackPrompt]:
    """Precede the question by a conversation with other true facts about the same person."""
    for index, (row, facts) in enumerate(zip(rows, other_facts(rows, seed), strict=True)):
        if len(facts) >= num:
            yield AttackPrompt(f"clues_{num}", index, row.question, row.answer, turns=conversation(facts[:num]))


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
        if len(others) >= num:
            examples = random.Random(f"{seed}/{row.id}").sample(others, num)
            yield AttackPrompt(f"in_context_{num}", index, row.question, row.answer, turns=conversation(examples))
