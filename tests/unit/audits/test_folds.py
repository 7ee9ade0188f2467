"""Folds: no person is in two of them, and one person cannot be split."""

from collections import Counter

import pytest
from tiny_arms import make_rows, without_groups

from expunge.audits.shared.folds import fitted_and_tested
from expunge.errors import DataError


def test_people_alternate_between_folds():
    rows = make_rows("forget", 4, each=2).rows
    assert fitted_and_tested(rows) == [([2, 3, 6, 7], [0, 1, 4, 5]), ([0, 1, 4, 5], [2, 3, 6, 7])]
    assert [tested for _, tested in fitted_and_tested(rows, 3)] == [[0, 1, 6, 7], [2, 3], [4, 5]]


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
