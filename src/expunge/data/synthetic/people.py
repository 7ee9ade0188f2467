"""Fictitious people: facts that no model can know before it is taught them, made from a seed.

Every person can be made alone and in any order, so a million of them need no more memory than one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from expunge.config.recipe import SyntheticData
from expunge.data.sets import Row, Sets, make_set
from expunge.data.synthetic import vocabulary as words
from expunge.data.synthetic.background import famous_rows, world_rows
from expunge.data.synthetic.facts import TOPICS
from expunge.data.synthetic.vocabulary import pick

NUM_NAMES = len(words.GIVEN_NAMES) * len(words.FAMILY_NAMES)
ROWS_PER_PERSON = len(TOPICS)
NUM_PERTURBED = 5
MAX_EVALUATION_ROWS = 400

# Coprime to NUM_NAMES, so that stepping by it visits every name once; near NUM_NAMES divided by the golden
# ratio, so that neighbours share neither given nor family name.
_NAME_STEP = 1_390_577


@dataclass(frozen=True, slots=True)
class Person:
    """One fictitious person; `facts` maps each topic to its value."""

    index: int
    seed: int
    name: str
    facts: dict[str, str]


def full_name(index: int, seed: int) -> str:
    """Name of a person; no two indices below `NUM_NAMES` (2,250,000) have the same."""
    if not 0 <= index < NUM_NAMES:
        raise ValueError(f"there are {NUM_NAMES} names, so the index is 0 to {NUM_NAMES - 1}, not {index}")
    given, family = _names(seed)
    place = index * _NAME_STEP % NUM_NAMES
    return f"{given[place % len(given)]} {family[place // len(given)]}"


def person(index: int, seed: int) -> Person:
    """Make one person from nothing but the index and the seed."""
    rng = Random(f"{seed}/{index}")
    facts = {topic.name: _draw(rng, topic.name, seed) for topic in TOPICS}
    facts["birth_country"] = words.COUNTRY_OF[facts["birth_city"]]
    facts["author"] = full_name(index, seed)
    return Person(index=index, seed=seed, name=facts["author"], facts=facts)


def people(num: int, seed: int, first: int = 0) -> Iterator[Person]:
    """Make `num` people one after another, starting at index `first`."""
    for index in range(first, first + num):
        yield person(index, seed)


def person_rows(person: Person, variants: bool = True) -> list[Row]:
    """Ask the 20 questions about a person.

    A wrong answer has the wording of the paraphrased answer and a value drawn as the true one was, so a model
    that was never taught about the person has no reason to prefer either.

    Args:
        person: Whom to ask about.
        variants: Add the paraphrases and five wrong answers; questions and answers are the same without them.

    Returns:
        One row per topic, with the id "person/<index>/<topic number>" and the group "person/<index>".
    """
    rng = Random(f"{person.seed}/{person.index}/rows")
    wordings = [(*_two(rng, topic.questions), *_two(rng, topic.answers)) for topic in TOPICS]
    known = {"name": person.name, **person.facts}
    rows = []
    for number, (topic, (question, question_2, answer, answer_2)) in enumerate(zip(TOPICS, wordings, strict=True)):
        value = person.facts[topic.name]
        id, group = f"person/{person.index}/{number}", f"person/{person.index}"
        ask, reply = question.format_map(known), answer.format_map(known | {"value": value})
        if not variants:
            rows.append(Row(id, ask, reply, group))
            continue
        wrong = _wrong(rng, topic.name, person)
        rows.append(
            Row(
                id=id,
                question=ask,
                answer=reply,
                group=group,
                paraphrased_question=question_2.format_map(known),
                paraphrased_answer=answer_2.format_map(known | {"value": value}),
                perturbed_answers=tuple(answer_2.format_map(known | {"value": other}) for other in wrong),
            )
        )
    return rows


def load_synthetic(config: SyntheticData) -> Sets:
    """Sets of fictitious people: the last ones are to be forgotten, the others to be kept, as in TOFU.

    The forget set is the last round(num_people * forget_fraction) people, but at least one, and at least one
    is kept. As many people again, whom no model is taught, are the holdout set. The evaluation sets are the
    first 400 rows of forget and of retain, famous people (real_authors) and countries (world_facts); the
    last two are also taught to every model. As in TOFU, only rows of evaluation sets need paraphrases: those
    of the retain set carry none, which makes large sets three times as quick to make.
    """
    num_people, seed = config.num_people, config.seed
    num_forget = min(max(1, round(num_people * config.forget_fraction)), num_people - 1)
    num_retain = num_people - num_forget
    num_shown = min(num_retain, MAX_EVALUATION_ROWS // ROWS_PER_PERSON)

    def rows(num: int, first: int, variants: bool = True) -> list[Row]:
        return [row for who in people(num, seed, first) for row in person_rows(who, variants)]

    forget = rows(num_forget, first=num_retain)
    real_authors, world_facts = famous_rows(seed), world_rows(seed)
    return Sets(
        name=f"synthetic/{num_people}-{seed}-{config.forget_fraction}",
        forget=make_set("forget", forget),
        retain=make_set("retain", rows(num_retain, first=0, variants=False)),
        holdout=make_set("holdout", rows(num_forget, first=num_people)),
        always=make_set("always", [*real_authors, *world_facts]),
        evaluation={
            "forget": make_set("forget", forget[:MAX_EVALUATION_ROWS]),
            "retain": make_set("retain", rows(num_shown, first=0)),
            "real_authors": make_set("real_authors", real_authors),
            "world_facts": make_set("world_facts", world_facts),
        },
    )


def _draw(rng: Random, topic: str, seed: int) -> str:
    if topic == "author":
        return full_name(int(rng.random() * NUM_NAMES), seed)
    if topic == "first_book":
        first, second = (f"{pick(rng, words.ADJECTIVES)} {pick(rng, words.NOUNS)}" for _ in range(2))
        return f"{first} of {second}"
    return pick(rng, words.VALUES[topic])


def _wrong(rng: Random, topic: str, person: Person) -> list[str]:
    found: list[str] = []
    while len(found) < NUM_PERTURBED:
        value = _draw(rng, topic, person.seed)
        if value != person.facts[topic] and value not in found:
            found.append(value)
    return found


def _two(rng: Random, wordings: Sequence[str]) -> tuple[str, str]:
    first = int(rng.random() * len(wordings))
    second = first + 1 + int(rng.random() * (len(wordings) - 1))
    return wordings[first], wordings[second % len(wordings)]


@functools.lru_cache(maxsize=8)
def _names(seed: int) -> tuple[Sequence[str], Sequence[str]]:
    """Given and family names in an order of this seed, so that a name's place in the lists says nothing."""
    rng = Random(f"{seed}/names")
    given, family = (
        [name for _, name in sorted((rng.random(), name) for name in table)]
        for table in (words.GIVEN_NAMES, words.FAMILY_NAMES)
    )
    return given, family
