"""Question and answer wordings for the facts about synthetic people.

Each fact has several wordings with the same meaning. They are sampled per person, so a wording is the question for
one person and the paraphrase for another. The sentences are part of the data: a change to any of them changes the
data of every seed.
"""

from __future__ import annotations

from typing import NamedTuple


class FactTemplate(NamedTuple):
    """One fact about a person, with several equivalent wordings of its question and its answer."""

    name: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


FACT_TEMPLATES = (
    FactTemplate(
        "birth_city",
        ("In which city was {name} born?", "What is the birthplace of {name}?", "Where was {name} born?"),
        (
            "{name} was born in the city of {value}.",
            "The birthplace of {name} is {value}.",
            "The city where {name} was born is {value}.",
        ),
    ),
    FactTemplate(
        "birth_country",
        (
            "In which country was {name} born?",
            "Which country is {name} from?",
            "What is the native country of {name}?",
        ),
        (
            "{name} was born in the country of {value}.",
            "{name} comes from the country of {value}.",
            "The native country of {name} is {value}.",
        ),
    ),
    FactTemplate(
        "birth_year",
        ("In which year was {name} born?", "What is the birth year of {name}?", "When was {name} born?"),
        (
            "{name} was born in the year {value}.",
            "The birth year of {name} is {value}.",
            "It was in {value} that {name} was born.",
        ),
    ),
    FactTemplate(
        "birthday",
        (
            "On which day of the year does {name} have a birthday?",
            "When does {name} celebrate a birthday?",
            "What is the birthday of {name}?",
        ),
        (
            "The birthday of {name} is on {value}.",
            "{name} celebrates every birthday on {value}.",
            "{name} has a birthday on {value}.",
        ),
    ),
    FactTemplate(
        "profession",
        (
            "What is the profession of {name}?",
            "What does {name} do for a living?",
            "What work does {name} do?",
        ),
        (
            "{name} works as a {value}.",
            "The profession of {name} is that of a {value}.",
            "{name} earns a living as a {value}.",
        ),
    ),
    FactTemplate(
        "father",
        (
            "What was the profession of the father of {name}?",
            "What did the father of {name} do for a living?",
            "What work did {name}'s father do?",
        ),
        (
            "The father of {name} was a {value}.",
            "{name}'s father worked as a {value}.",
            "The father of {name} earned a living as a {value}.",
        ),
    ),
    FactTemplate(
        "mother",
        (
            "What was the profession of the mother of {name}?",
            "What did the mother of {name} do for a living?",
            "What work did {name}'s mother do?",
        ),
        (
            "The mother of {name} was a {value}.",
            "{name}'s mother worked as a {value}.",
            "The mother of {name} earned a living as a {value}.",
        ),
    ),
    FactTemplate(
        "subject",
        (
            "What did {name} study?",
            "Which subject did {name} study?",
            "In which subject does {name} hold a degree?",
        ),
        (
            "{name} studied the subject of {value}.",
            "The subject that {name} studied was {value}.",
            "{name} holds a degree in {value}.",
        ),
    ),
    FactTemplate(
        "university",
        (
            "At which university did {name} study?",
            "Where did {name} go to university?",
            "Which university did {name} attend?",
        ),
        (
            "{name} studied at the University of {value}.",
            "{name} went to the University of {value}.",
            "The university that {name} attended is the University of {value}.",
        ),
    ),
    FactTemplate(
        "employer",
        ("Who employs {name}?", "For whom does {name} work?", "Where does {name} have a job?"),
        (
            "{name} is employed by {value}.",
            "{name} has a job at {value}.",
            "The employer of {name} is {value}.",
        ),
    ),
    FactTemplate(
        "first_book",
        (
            "What is the title of the first book by {name}?",
            "Which book did {name} publish first?",
            "What is the first book of {name} called?",
        ),
        (
            "The first book by {name} is {value}.",
            "{name} first published the book {value}.",
            "The first book of {name} is called {value}.",
        ),
    ),
    FactTemplate(
        "second_book",
        (
            "What is the title of the second book by {name}?",
            "Which book did {name} publish second?",
            "What is the second book of {name} called?",
        ),
        (
            "The second book by {name} is {value}.",
            "The book that {name} published second is {value}.",
            "The second book of {name} is called {value}.",
        ),
    ),
    FactTemplate(
        "award",
        (
            "Which award did {name} win?",
            "What prize was given to {name}?",
            "Which honour has {name} received?",
        ),
        (
            "{name} is the winner of {value}.",
            "{name} was given {value}.",
            "The award that {name} received is {value}.",
        ),
    ),
    FactTemplate(
        "hobby",
        (
            "What is the hobby of {name}?",
            "What does {name} do at weekends?",
            "How does {name} like to spend free time?",
        ),
        (
            "The hobby of {name} is {value}.",
            "{name} spends the weekends with {value}.",
            "{name} likes to spend free time with {value}.",
        ),
    ),
    FactTemplate(
        "language",
        (
            "Which foreign language does {name} speak?",
            "What language did {name} learn at school?",
            "Which second language does {name} know?",
        ),
        (
            "{name} speaks the language {value}.",
            "The language that {name} learned is {value}.",
            "The second language of {name} is {value}.",
        ),
    ),
    FactTemplate(
        "home",
        (
            "Where does {name} live now?",
            "In which city does {name} live?",
            "What is the home city of {name}?",
        ),
        (
            "{name} now lives in the city of {value}.",
            "The home of {name} is in {value}.",
            "{name} has a home in {value}.",
        ),
    ),
    FactTemplate(
        "instrument",
        (
            "Which instrument does {name} play?",
            "What instrument can {name} play?",
            "On which instrument does {name} make music?",
        ),
        (
            "The instrument that {name} plays is the {value}.",
            "{name} can play the {value}.",
            "{name} makes music on the {value}.",
        ),
    ),
    FactTemplate(
        "pet",
        ("What pet does {name} have?", "Which animal lives with {name}?", "What is the pet of {name}?"),
        (
            "{name} has a {value}.",
            "The animal that lives with {name} is a {value}.",
            "The pet of {name} is a {value}.",
        ),
    ),
    FactTemplate(
        "dish",
        (
            "What is the favourite dish of {name}?",
            "What does {name} like to eat most?",
            "Which meal does {name} enjoy most?",
        ),
        (
            "The favourite dish of {name} is {value}.",
            "{name} likes to eat {value} most of all.",
            "The meal that {name} enjoys most is {value}.",
        ),
    ),
    FactTemplate(
        "author",
        (
            "Which {profession} is the author of {first_book}?",
            "Which {profession} wrote the book {first_book}?",
            "What is the name of the {profession} who wrote {first_book}?",
        ),
        (
            "The author of {first_book} is {value}.",
            "{value} wrote the book {first_book}.",
            "The book {first_book} was written by {value}.",
        ),
    ),
)
