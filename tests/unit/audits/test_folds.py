"""Folds: no person is in two of them, and one person cannot be split."""

from collections import Counter

import pytest
from tiny_arms import make_rows, without_groups

from expunge.audits.shared.folds import fitted_and_tested, group_folds, split_groups
from expunge.errors import DataError


def test_folds_have_equally_many_people():
    rows = make_rows("forget", 4, each=2).rows
    assert [len(tested) for _, tested in fitted_and_tested(rows)] == [4, 4]
    assert sorted(len(tested) for _, tested in fitted_and_tested(rows, 3)) == [2, 2, 4]


def test_the_order_and_number_of_rows_do_not_move_a_person():
    names = [f"person {number}" for number in range(9)]
    fold_of = split_groups(names, 4)
    assert split_groups(reversed(names * 3), 4) == fold_of
    masks = group_folds([names[5], names[0], *names], 4)
    assert all(masks[fold_of[name]][place + 2] for place, name in enumerate(names))
    assert masks[fold_of[names[5]]][0]
    assert masks[fold_of[names[0]]][1]


def test_no_person_is_in_two_folds_whatever_the_order():
    rows = [make_rows("forget", 5).rows[i] for i in (3, 0, 14, 7, 1, 9, 4, 12, 2, 13, 5, 6, 8, 10, 11)]
    folds = [tested for _, tested in fitted_and_tested(rows)]
    assert all(sorted(fitted + tested) == list(range(15)) for fitted, tested in fitted_and_tested(rows))
    seen = Counter(group for fold in folds for group in {rows[i].group for i in fold})
    assert set(seen.values()) == {1}
    assert sorted(i for fold in folds for i in fold) == list(range(15))


def test_one_person_is_refused():
    rows = without_groups(make_rows("forget", 2)).rows
    with pytest.raises(DataError, match=r"only one person.*needs at least 2"):
        fitted_and_tested(rows)
    with pytest.raises(DataError, match=r"only 2 people.*needs at least 3"):
        fitted_and_tested(make_rows("forget", 2).rows, 3)
