"""Synthetic people: reproducible, unique, consistent, and split as in TOFU."""

import re
import tracemalloc

import pytest

from expunge.config.recipe import SyntheticData
from expunge.data.duplicates import find_overlap
from expunge.data.prepare import prepare_sets
from expunge.data.synthetic.facts import FACT_TEMPLATES
from expunge.data.synthetic.people import NUM_NAMES, full_name, make_people, make_person, person_rows
from expunge.data.synthetic.vocabulary import (
    COUNTRY_OF,
    FAMILY_NAMES,
    FAMOUS_FAMILY_NAMES,
    GIVEN_NAMES,
    VALUES,
)


@pytest.fixture(scope="module")
def sets():
    return prepare_sets(SyntheticData(num_people=100, seed=0))


def test_content_is_the_same_on_every_machine(sets):
    """Any change of words, sentences or sampling changes these hashes."""
    assert sets.forget.hash == "d883b876bf1a56db"
    assert sets.retain.hash == "ae6e91453c126e7c"
    assert sets.always.hash == "f1dd61f7c00513dd"


def test_people_are_independent():
    one_by_one = [make_person(index, 3) for index in (7, 2, 5)]
    in_order = list(make_people(8, 3))
    assert one_by_one == [in_order[7], in_order[2], in_order[5]]
    assert list(make_people(2, 3, first=4)) == in_order[4:6]
    assert person_rows(in_order[4]) == person_rows(make_person(4, 3))
    assert make_person(0, 3) != make_person(0, 4)


def test_a_million_names_are_unique():
    """Each name is a combination of an entry of each list; no combination occurs twice."""
    given_names = {name: i for i, name in enumerate(GIVEN_NAMES)}
    family_names = {name: i for i, name in enumerate(FAMILY_NAMES)}
    assert len(given_names) * len(family_names) == NUM_NAMES
    used = bytearray(NUM_NAMES)
    for index in range(1_000_000):
        first, last = full_name(index, 0).split()
        used[given_names[first] * len(family_names) + family_names[last]] = 1
    assert sum(used) == 1_000_000


def test_index_bounds_and_neighbouring_names():
    for index in (-1, NUM_NAMES):
        with pytest.raises(ValueError, match="index"):
            full_name(index, 0)
    first, last = zip(*(full_name(index, 0).split() for index in range(200)), strict=True)
    assert len(set(first)) == 200
    assert len(set(last)) >= 190


def test_format_of_the_twenty_rows():
    for person in make_people(50, 1):
        rows = person_rows(person)
        assert len(rows) == 20 == len(FACT_TEMPLATES)
        for template, row in zip(FACT_TEMPLATES, rows, strict=True):
            value = person.facts[template.name]
            assert row.group == f"person/{person.index}"
            assert row.question.endswith("?")
            assert row.question != row.paraphrased_question
            assert row.answer != row.paraphrased_answer
            assert value in row.answer
            assert value in row.paraphrased_answer
            assert person.name in row.question or template.name == "author"
            assert "{" not in "".join([row.question, row.answer, row.paraphrased_question, row.paraphrased_answer])
            assert 6 <= len(row.answer.split()) <= 14


def test_wrong_answers_differ_from_the_paraphrase_in_the_value_alone():
    for person in make_people(50, 1):
        for template, row in zip(FACT_TEMPLATES, person_rows(person), strict=True):
            assert len(set(row.perturbed_answers)) == 5
            before, after = row.paraphrased_answer.split(person.facts[template.name], 1)
            for wrong in row.perturbed_answers:
                value = wrong.removeprefix(before).removesuffix(after)
                assert before + value + after == wrong
                assert value != person.facts[template.name]
                if template.name in VALUES:
                    assert value in VALUES[template.name]
                assert len(value.split()) == len(person.facts[template.name].split())


def test_facts_agree_with_each_other():
    for person in make_people(50, 2):
        assert person.facts["birth_country"] == COUNTRY_OF[person.facts["birth_city"]]
        *_, author = person_rows(person)
        assert person.facts["first_book"] in author.question
        assert person.facts["profession"] in author.question
        assert person.name in author.answer


def test_no_fact_has_a_dominant_value(sets):
    """Among 100 people, no value is so common that always answering it would look like knowledge."""
    for fact in ("birth_city", "hobby", "birth_year", "father", "award", "dish"):
        values = [person.facts[fact] for person in make_people(100, 0)]
        assert max(values.count(value) for value in values) <= 12


def test_rows_without_variants_have_the_same_questions():
    person = make_person(11, 0)
    short, full = person_rows(person, variants=False), person_rows(person)
    assert [(r.id, r.question, r.answer, r.group) for r in short] == [
        (r.id, r.question, r.answer, r.group) for r in full
    ]
    assert not any(row.perturbed_answers or row.paraphrased_answer for row in short)


def test_sets_are_split_as_in_tofu(sets):
    assert sets.name == "synthetic/100-0-0.1"
    assert [row.group for row in sets.forget] == [f"person/{90 + i // 20}" for i in range(200)]
    assert [row.group for row in sets.retain] == [f"person/{i // 20}" for i in range(1800)]
    assert [row.group for row in sets.holdout] == [f"person/{100 + i // 20}" for i in range(200)]
    assert sets.evaluation["forget"].rows == sets.forget.rows
    assert len(sets.evaluation["retain"]) == 400
    assert [row.id for row in sets.evaluation["retain"]] == [row.id for row in sets.retain][:400]
    assert all(row.perturbed_answers for row in sets.evaluation["retain"])


@pytest.mark.parametrize(
    ("num_people", "fraction", "num_forget"), [(4, 0.1, 1), (4, 0.99, 3), (10, 0.25, 2), (30, 0.5, 15)]
)
def test_at_least_one_person_is_forgotten_and_one_retained(num_people, fraction, num_forget):
    """round(10 x 0.25) = round(2.5) = 2 (to even); 4 x 0.99 rounds to 4, but one person is retained."""
    sets = prepare_sets(SyntheticData(num_people=num_people, forget_fraction=fraction))
    assert (len(sets.forget), len(sets.retain)) == (20 * num_forget, 20 * (num_people - num_forget))
    assert len(sets.holdout) == len(sets.forget)
    assert len(sets.evaluation["forget"]) == len(sets.forget)


def test_background_sets_have_short_answers(sets):
    for name in ("real_authors", "world_facts"):
        rows = sets.evaluation[name]
        assert len(rows) == 80
        for row in rows:
            assert len(row.answer.split()) <= 2
            assert len(set(row.perturbed_answers)) == 3
            assert row.answer not in row.perturbed_answers
            assert not row.paraphrased_answer
        assert len({row.question for row in rows}) == 80
        assert [row.id for row in rows] == [f"{name}/{i}" for i in range(80)]
        assert len({row.group for row in rows}) in (16, 40)
    assert sets.always.rows == sets.evaluation["real_authors"].rows + sets.evaluation["world_facts"].rows
    assert not set(FAMOUS_FAMILY_NAMES) & set(FAMILY_NAMES)


def test_seeds_give_different_data(sets):
    different = prepare_sets(SyntheticData(num_people=100, seed=1))
    assert not {row.question for row in different.forget} & {row.question for row in sets.forget}
    assert different.always.hash != sets.always.hash
    assert different.name != sets.name


def test_vocabulary_is_small(sets):
    text = " ".join(f"{row.question} {row.answer}" for row in [*sets.forget, *sets.retain, *sets.always])
    assert len(set(re.findall(r"[\w'-]+", text))) < 1500


def test_different_people_are_not_near_duplicates(sets):
    overlap = find_overlap(sets.forget, sets.retain)
    assert (overlap.num_exact, overlap.num_near) == (0, 0)


def test_memory_does_not_grow_with_the_number_of_people():
    """5000 people, up to the millionth, are generated one after another in under 1 MB."""
    tracemalloc.start()
    full_name(0, 0)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    last = max(make_people(5000, 0, first=995_000), key=lambda person: person.index)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 1_000_000
    assert last == make_person(999_999, 0)
