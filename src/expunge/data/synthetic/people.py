"""Generate fictitious people from a seed: facts that no model can know before training on them.

Each person is generated independently of all others, so a million people need no more memory than one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from expunge.config.recipe import SyntheticData
from expunge.data.sets import Row, Sets, make_set
from expunge.data.synthetic import vocabulary
from expunge.data.synthetic.background import famous_rows, world_rows
from expunge.data.synthetic.facts import FACT_TEMPLATES
from expunge.data.synthetic.vocabulary import pick

NUM_NAMES = len(vocabulary.GIVEN_NAMES) * len(vocabulary.FAMILY_NAMES)
ROWS_PER_PERSON = len(FACT_TEMPLATES)
NUM_PERTURBED = 5
MAX_EVALUATION_ROWS = 400

# Coprime to NUM_NAMES, so that steps of this size reach every name once. It is close to NUM_NAMES divided by the
# golden ratio, so that consecutive people share neither given nor family name.
_NAME_STEP = 1_390_577


@dataclass(frozen=True, slots=True)
class Person:
    """One fictitious person; `facts` maps the name of each fact to its value."""

    index: int
    seed: int
    name: str
    facts: dict[str, str]


def full_name(index: int, seed: int) -> str:
    """Return the name of a person; all indices below `NUM_NAMES` (2,250,000) have different names.

    Raises:
        ValueError: The index is out of range.
    """
    if not 0 <= index < NUM_NAMES:
        raise ValueError(f"the index of a name must be from 0 to {NUM_NAMES - 1}, not {index}")
    given_names, family_names = _shuffled_names(seed)
    combination = index * _NAME_STEP % NUM_NAMES
    return f"{given_names[combination % len(given_names)]} {family_names[combination // len(given_names)]}"


def make_person(index: int, seed: int) -> Person:
    """Generate one person from the index and the seed alone."""
    rng = Random(f"{seed}/{index}")
    facts = {template.name: _sample_value(rng, template.name, seed) for template in FACT_TEMPLATES}
    facts["birth_country"] = vocabulary.COUNTRY_OF[facts["birth_city"]]
    facts["author"] = full_name(index, seed)
    return Person(index=index, seed=seed, name=facts["author"], facts=facts)


def make_people(num: int, seed: int, first: int = 0) -> Iterator[Person]:
    """Generate `num` people one after another, starting at index `first`."""
    for index in range(first, first + num):
        yield make_person(index, seed)


def person_rows(person: Person, variants: bool = True) -> list[Row]:
    """Return the 20 rows about a person.

    A wrong answer has the wording of the paraphrased answer and a value sampled from the same distribution as the
    true one, so a model that was not trained on the person has no reason to prefer either.

    Args:
        person: The person.
        variants: Whether to add paraphrases and five wrong answers; questions and answers do not depend on it.

    Returns:
        One row per fact, with the id "person/<index>/<fact number>" and the group "person/<index>".
    """
    rng = Random(f"{person.seed}/{person.index}/rows")
    wordings = [
        (*_sample_two(rng, template.questions), *_sample_two(rng, template.answers)) for template in FACT_TEMPLATES
    ]
    fields = {"name": person.name, **person.facts}
    rows = []
    for number, (template, wording) in enumerate(zip(FACT_TEMPLATES, wordings, strict=True)):
        question, paraphrased_question, answer, paraphrased_answer = wording
        value = person.facts[template.name]
        row = Row(
            id=f"person/{person.index}/{number}",
            question=question.format_map(fields),
            answer=answer.format_map(fields | {"value": value}),
            group=f"person/{person.index}",
        )
        if variants:
            wrong_values: list[str] = []
            while len(wrong_values) < NUM_PERTURBED:
                candidate = _sample_value(rng, template.name, person.seed)
                if candidate != value and candidate not in wrong_values:
                    wrong_values.append(candidate)
            row = replace(
                row,
                paraphrased_question=paraphrased_question.format_map(fields),
                paraphrased_answer=paraphrased_answer.format_map(fields | {"value": value}),
                perturbed_answers=tuple(
                    paraphrased_answer.format_map(fields | {"value": wrong}) for wrong in wrong_values
                ),
            )
        rows.append(row)
    return rows


def load_synthetic(config: SyntheticData) -> Sets:
    """Generate sets of fictitious people, split as in TOFU: the last people are to be forgotten, the others retained.

    The forget set is the last round(num_people * forget_fraction) people, but at least one person is forgotten and at
    least one is retained. The holdout set is the same number of further people, on whom no model is trained. The
    evaluation sets are the first 400 rows of forget and of retain, famous people (real_authors) and countries
    (world_facts). Every model is also trained on the last two. As in TOFU, only rows of evaluation sets need
    paraphrases: the retain set has none, which makes the generation of large sets three times as fast.
    """
    num_people, seed = config.num_people, config.seed
    num_forget = min(max(1, round(num_people * config.forget_fraction)), num_people - 1)
    num_retain = num_people - num_forget
    num_retain_evaluation = min(num_retain, MAX_EVALUATION_ROWS // ROWS_PER_PERSON)

    def rows(num: int, first: int, variants: bool = True) -> list[Row]:
        return [row for person in make_people(num, seed, first) for row in person_rows(person, variants)]

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
            "retain": make_set("retain", rows(num_retain_evaluation, first=0)),
            "real_authors": make_set("real_authors", real_authors),
            "world_facts": make_set("world_facts", world_facts),
        },
    )


def _sample_value(rng: Random, fact: str, seed: int) -> str:
    if fact == "author":
        return full_name(int(rng.random() * NUM_NAMES), seed)
    if fact == "first_book":
        first, second = (f"{pick(rng, vocabulary.ADJECTIVES)} {pick(rng, vocabulary.NOUNS)}" for _ in range(2))
        return f"{first} of {second}"
    return pick(rng, vocabulary.VALUES[fact])


def _sample_two(rng: Random, wordings: Sequence[str]) -> tuple[str, str]:
    first = int(rng.random() * len(wordings))
    second = first + 1 + int(rng.random() * (len(wordings) - 1))
    return wordings[first], wordings[second % len(wordings)]


@functools.lru_cache(maxsize=8)
def _shuffled_names(seed: int) -> tuple[Sequence[str], Sequence[str]]:
    """Return given and family names in an order that depends on the seed, so that the order carries no information."""
    rng = Random(f"{seed}/names")
    given_names, family_names = (
        [name for _, name in sorted((rng.random(), name) for name in table)]
        for table in (vocabulary.GIVEN_NAMES, vocabulary.FAMILY_NAMES)
    )
    return given_names, family_names
