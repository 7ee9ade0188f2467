"""Folds: no person is in two of them, and one person cannot be split."""

from collections import Counter

import pytest
from tiny_arms import make_rows, without_groups

from expunge.audits.shared.folds import people_folds
from expunge.errors import DataError


def test_people_alternate_between_folds():
    rows = make_rows("forget", 4, each=2).rows
    assert people_folds(rows) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert people_folds(rows, 3) == [[0, 1, 6, 7], [2, 3], [4, 5]]


def test_no_person_is_in_two_folds_whatever_the_order():
    rows = [make_rows("forget", 5).rows[i] for i in (3, 0, 14, 7, 1, 9, 4, 12, 2, 13, 5, 6, 8, 10, 11)]
    folds = people_folds(rows)
    seen = Counter(group for fold in folds for group in {rows[i].group for i in fold})
    assert set(seen.values()) == {1}
    assert sorted(i for fold in folds for i in fold) == list(range(15))


def test_one_person_is_refused():
    rows = without_groups(make_rows("forget", 2)).rows
    with pytest.raises(DataError, match=r"only one person.*needs at least 2"):
        people_folds(rows)
    with pytest.raises(DataError, match=r"only 2 people.*needs at least 3"):
        people_folds(make_rows("forget", 2).rows, 3)
