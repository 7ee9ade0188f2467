"""What everyone knows in the synthetic world: famous people and countries, asked about in short answers.

These rows stand where TOFU has real authors and world facts. Every model of an experiment is taught them, so
they show whether unlearning harms knowledge that is further away than the retain set.
"""

from __future__ import annotations

from random import Random

from expunge.data.sets import Row
from expunge.data.synthetic import vocabulary as words
from expunge.data.synthetic.vocabulary import pick, pick_others

NUM_PERTURBED = 3


def famous_rows(seed: int) -> list[Row]:
    """Two questions about each of 40 famous authors; their family names are nobody else's.

    Returns:
        80 rows "real_authors/<i>" with three wrong answers; the group is the author.
    """
    rng = Random(f"{seed}/famous")
    names = [f"{pick(rng, words.GIVEN_NAMES)} {family}" for family in words.FAMOUS_FAMILY_NAMES]
    titles = pick_others(rng, [f"The {a} {b}" for a in words.ADJECTIVES for b in words.NOUNS], "", len(names))
    rows: list[Row] = []
    for number, (name, title) in enumerate(zip(names, titles, strict=True)):
        group, country = f"famous/{number}", pick(rng, words.COUNTRIES)
        book = pick(rng, ("Who wrote the famous book {}?", "Which famous author wrote {}?")).format(title)
        home = pick(rng, ("Where was the famous author {} born?", "From which country is the famous author {}?"))
        for question, answer, options in (
            (book, name, names),
            (home.format(name), country, words.COUNTRIES),
        ):
            wrong = pick_others(rng, options, answer, NUM_PERTURBED)
            rows.append(Row(f"real_authors/{len(rows)}", question, answer, group, perturbed_answers=wrong))
    return rows


def world_rows(seed: int) -> list[Row]:
    """Five questions about each of the 16 invented countries.

    Returns:
        80 rows "world_facts/<i>" with three wrong answers; the group is the country.
    """
    rng = Random(f"{seed}/world")
    rows: list[Row] = []
    for country, cities in words.PLACES.items():
        for questions, truths, options in (
            (
                ("What is the capital of {}?", "Which city is the capital of {}?"),
                cities.split(),
                words.CITIES,
            ),
            (
                ("What is the longest river in {}?", "Which river is the longest in {}?"),
                words.RIVERS,
                words.RIVERS,
            ),
            (
                ("What is the highest peak in {}?", "Which mountain in {} is highest?"),
                words.MOUNTAINS,
                words.MOUNTAINS,
            ),
            (("What is the currency of {}?", "With what do people in {} pay?"), words.COINS, words.COINS),
            (
                ("What is the national flower of {}?", "Which flower stands for {}?"),
                words.FLOWERS,
                words.FLOWERS,
            ),
        ):
            question, answer = pick(rng, questions).format(country), pick(rng, truths)
            wrong = pick_others(rng, options, answer, NUM_PERTURBED)
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
