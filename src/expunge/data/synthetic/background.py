"""Generate background knowledge of the synthetic world: short questions about famous people and countries.

These rows correspond to TOFU's real authors and world facts. Every model of an experiment is trained on them, so they
show whether unlearning damages knowledge that is less related to the forget set than the retain set.
"""

from __future__ import annotations

from random import Random

from expunge.data.sets import Row
from expunge.data.synthetic import vocabulary
from expunge.data.synthetic.vocabulary import pick, pick_distinct

NUM_PERTURBED = 3


def famous_rows(seed: int) -> list[Row]:
    """Return two questions about each of 40 famous authors, whose family names no other person has.

    Returns:
        80 rows with the ids "real_authors/<i>" and three wrong answers each; the group is the author.
    """
    rng = Random(f"{seed}/famous")
    names = [f"{pick(rng, vocabulary.GIVEN_NAMES)} {family}" for family in vocabulary.FAMOUS_FAMILY_NAMES]
    titles = pick_distinct(
        rng, [f"The {a} {b}" for a in vocabulary.ADJECTIVES for b in vocabulary.NOUNS], "", len(names)
    )
    rows: list[Row] = []
    for number, (name, title) in enumerate(zip(names, titles, strict=True)):
        group, country = f"famous/{number}", pick(rng, vocabulary.COUNTRIES)
        book = pick(rng, ("Who wrote the famous book {}?", "Which famous author wrote {}?")).format(title)
        home = pick(rng, ("Where was the famous author {} born?", "From which country is the famous author {}?"))
        for question, answer, options in (
            (book, name, names),
            (home.format(name), country, vocabulary.COUNTRIES),
        ):
            wrong = pick_distinct(rng, options, answer, NUM_PERTURBED)
            rows.append(Row(f"real_authors/{len(rows)}", question, answer, group, perturbed_answers=wrong))
    return rows


def world_rows(seed: int) -> list[Row]:
    """Return five questions about each of the 16 invented countries.

    Returns:
        80 rows with the ids "world_facts/<i>" and three wrong answers each; the group is the country.
    """
    rng = Random(f"{seed}/world")
    rows: list[Row] = []
    for country, cities in vocabulary.CITIES_OF.items():
        for questions, truths, options in (
            (
                ("What is the capital of {}?", "Which city is the capital of {}?"),
                cities.split(),
                vocabulary.CITIES,
            ),
            (
                ("What is the longest river in {}?", "Which river is the longest in {}?"),
                vocabulary.RIVERS,
                vocabulary.RIVERS,
            ),
            (
                ("What is the highest peak in {}?", "Which mountain in {} is highest?"),
                vocabulary.MOUNTAINS,
                vocabulary.MOUNTAINS,
            ),
            (("What is the currency of {}?", "With what do people in {} pay?"), vocabulary.COINS, vocabulary.COINS),
            (
                ("What is the national flower of {}?", "Which flower stands for {}?"),
                vocabulary.FLOWERS,
                vocabulary.FLOWERS,
            ),
        ):
            question, answer = pick(rng, questions).format(country), pick(rng, truths)
            wrong = pick_distinct(rng, options, answer, NUM_PERTURBED)
            rows.append(
                Row(
                    f"world_facts/{len(rows)}",
                    question,
                    answer,
                    f"country/{country}",
                    perturbed_answers=wrong,
                )
            )
    return rows
