"""What each tier of `relearn` trains on: never a row that it tests, unless that is its purpose."""

import numpy as np
import pytest
from pydantic import ValidationError

from expunge.audits.relearn.audit import Relearn
from expunge.audits.relearn.tiers import FOLDS, Halves, group_of, shuffle_answers, statements
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError


def rows(people, per_person, name="forget"):
    return tuple(
        Row(f"{name}/{p}/{i}", f"Question {i} about {name} {p}?", f"Answer {i} of {name} {p}.", f"{name} {p}")
        for p in range(people)
        for i in range(per_person)
    )


def made(people=6, per_person=5, retain=True):
    retained = RowSet("retain", rows(4, 3, "retain")) if retain else None
    return Sets("made", RowSet("forget", rows(people, per_person)), retained)


def contents(found):
    return {(row.question, row.answer) for row in found}


def test_halves_are_of_people_and_swapped():
    halves = Halves(made(people=7), seed=0)
    people = {fold: {row.group for row in halves.rows if halves.fold_of(row) == fold} for fold in FOLDS}
    assert people[1].isdisjoint(people[2])
    assert sorted(map(len, people.values())) == [3, 4]
    trained = [{row.group for row in halves.training("all", fold)} for fold in FOLDS]
    assert trained == [people[2], people[1]]
    reseeded = Halves(made(people=7), seed=5)
    assert [reseeded.fold_of(row) for row in halves.rows] == [halves.fold_of(row) for row in halves.rows]


@pytest.mark.parametrize("tier", ["all", "shuffled", 1, 4])
@pytest.mark.parametrize("fold", FOLDS)
def test_no_person_is_trained_and_tested(tier, fold):
    halves = Halves(made(), seed=1)
    trained = halves.training(tier, fold)
    assert {halves.fold_of(row) for row in trained} == {3 - fold}
    assert len(trained) == (tier if isinstance(tier, int) else 15)


def test_small_samples_are_part_of_larger_ones():
    halves = Halves(made(), seed=2)
    one, four = (contents(halves.training(tier, 1)) for tier in (1, 4))
    assert one < four


def test_a_row_of_the_training_set_that_is_tested_is_left_out():
    """A copy of a forget row in the retain set would be taught; so would a row of another person with equal text."""
    sets = made()
    copied = RowSet("retain", (*sets.retain.rows, sets.forget.rows[0]))
    halves = Halves(Sets("made", sets.forget, copied), seed=0)
    assert contents(halves.training("retain", None)) == contents(sets.retain)
    twin = Row("forget/twin", sets.forget.rows[0].question, sets.forget.rows[0].answer, "forget 1")
    halves = Halves(Sets("made", RowSet("forget", (*sets.forget.rows, twin)), None), seed=0)
    for fold in FOLDS:
        tested = contents(row for row in halves.rows if halves.fold_of(row) == fold)
        assert tested.isdisjoint(contents(halves.training("all", fold)))
    assert contents(halves.training("forget", None)) == contents(halves.rows)


def test_shuffled_answers_are_those_of_other_people():
    original = list(rows(5, 4))
    shuffled = shuffle_answers(original, np.random.default_rng(0))
    assert [row.question for row in shuffled] == [row.question for row in original]
    assert sorted(row.answer for row in shuffled) == sorted(row.answer for row in original)
    owner = {row.answer: row.group for row in original}
    assert all(owner[row.answer] != row.group for row in shuffled)


def test_unrelated_text_is_plain_and_not_about_people():
    texts = statements()
    assert len(texts) == 80
    assert not any(row.question for row in texts)
    assert {row.group.split("/")[0] for row in texts} == {"country"}


def test_tiers_without_their_rows_are_left_out():
    few = Halves(made(people=4, per_person=2, retain=False), seed=0)
    assert [tier for tier in Relearn().tiers if few.has(tier)] == ["unrelated", 1, "all", "shuffled", "forget"]
    pair = Halves(made(people=2), seed=0)
    assert not pair.has("shuffled")
    assert not few.has(4), "four rows are all rows of a half, which is the tier 'all'"


def test_one_person_has_no_halves():
    with pytest.raises(DataError, match=r"has one only \('forget 0', rows: 5\)\. At least 2 people .* and 5 for"):
        Relearn().stages(made(people=1))


def test_rows_without_a_group_are_split_by_row():
    sets = Sets("made", RowSet("forget", tuple(Row(str(i), f"Q{i}?", f"A{i}.", "") for i in range(4))), None)
    halves = Halves(sets, seed=0)
    assert {group_of(row) for row in halves.training("all", 1)} == {
        row.id for row in halves.rows if halves.fold_of(row) == 2
    }


def test_stages():
    audit = Relearn(tiers=["retain", 1, "forget"], lora_lr=[1e-3], full_lr=[1e-4])
    assert audit.stages(made()) == [
        "before",
        "retain rows, lora lr 0.001",
        "retain rows, full lr 0.0001",
        "1 row of other people, lora lr 0.001, tested on half 1",
        "1 row of other people, lora lr 0.001, tested on half 2",
        "1 row of other people, full lr 0.0001, tested on half 1",
        "1 row of other people, full lr 0.0001, tested on half 2",
        "all forget rows, lora lr 0.001",
        "all forget rows, full lr 0.0001",
    ]


def test_workload_by_hand():
    """30 forget rows and 12 retain rows, in rows: the model as it is 42; 3 trainings of 10 steps of 6 rows 3 x 180.

    Each of 2 numbers of steps: 42 after 'retain', 15 + 12 after each of the two trainings of 'all'. A tier of one row
    has batches of one row: 3 x 10 in each training.
    """
    audit = Relearn(tiers=["retain", "all"], lora_lr=[], full_lr=[1e-4], steps=[5, 10], batch_size=6)
    assert audit.workload(made()).passes == pytest.approx((42 + 3 * 180 + 2 * (42 + 27 + 27)) / 30)
    limited = audit.model_copy(update={"limit": 10})
    assert limited.workload(made()).passes == pytest.approx((22 + 3 * 180 + 2 * (22 + 17 + 17)) / 30)
    one = audit.model_copy(update={"tiers": [1]})
    assert one.workload(made()).passes == pytest.approx((42 + 2 * 30 + 2 * (27 + 27)) / 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiers": []}, "tiers"),
        ({"tiers": ["al"]}, "tiers"),
        ({"tiers": [0]}, "at least 1"),
        ({"tiers": ["all", "all"]}, "named twice"),
        ({"tiers": ["shuffled"]}, "name both"),
        ({"lora_lr": [], "full_lr": []}, "both empty"),
        ({"full_lr": [-1.0]}, "above 0"),
        ({"steps": [16, 4]}, "ascending"),
        ({"steps": [0, 4]}, "ascending"),
        ({"lora_lr": [], "lora": {"rank": 4}}, "lora has no effect"),
        ({"tiers": ["all"], "unrelated": {"path": "x.txt"}}, "unrelated has no effect"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Relearn(**settings)
