"""Wilson's interval and its extension to groups: closed forms, limits and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics.intervals import t_quantile
from expunge.metrics.proportions import proportion_interval, wilson


def test_wilson_solves_its_defining_equation():
    """The ends are the proportions q with |p - q| = z sqrt(q (1 - q) / n)."""
    for successes, trials in [(1, 10), (24, 400), (399, 400), (2.5, 7.25)]:
        for end in wilson(successes, trials):
            distance = abs(successes / trials - end)
            assert distance == pytest.approx(1.959963984540054 * (end * (1 - end) / trials) ** 0.5, rel=1e-9)


def test_wilson_of_no_and_of_only_successes():
    """k = 0 of n: the upper end is z^2 / (n + z^2), here 3.8415 / 13.8415."""
    low, high = wilson(0, 10)
    assert low == 0.0
    assert high == pytest.approx(0.27753, abs=1e-5)
    assert wilson(10, 10) == (pytest.approx(1 - high), 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_rejected(successes, trials):
    with pytest.raises(ValueError, match="wilson"):
        wilson(successes, trials)


@pytest.mark.parametrize("num_rows", [1, 4, 60])
def test_rows_that_are_their_own_groups_have_wilsons_interval(num_rows):
    outcomes = [position % 4 == 0 for position in range(num_rows)]
    interval = proportion_interval(outcomes, range(num_rows))
    assert (interval.low, interval.high) == wilson(sum(outcomes), num_rows)
    assert interval.how == f"95% Wilson interval of {num_rows} rows"


def test_groups_of_equal_rows_closed_form():
    """10 groups of 20 equal rows, 4 groups of ones: V = p (1 - p) / 9, so deff = 199/9 and rho = (199/9 - 1) / 19.

    m = 80 events: rho = (80 rho + 0.4) / 82. n_eff = 200 / (1 + 19 rho) * (t(199) / t(9))^2.
    """
    outcomes = np.repeat([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], 20)
    interval = proportion_interval(outcomes, np.repeat(np.arange(10), 20).tolist())
    correlation = (80 * (199 / 9 - 1) / 19 + 0.4) / 82
    effective = 200 / (1 + 19 * correlation) * (t_quantile(199, 0.95) / t_quantile(9, 0.95)) ** 2
    assert (interval.low, interval.high) == pytest.approx(wilson(0.4 * effective, effective))
    assert "200 rows in 10 groups, as wide as that of 7.01 independent rows" in interval.how


def test_without_events_the_assumed_correlation_decides():
    """0 of 400 rows of 20 authors: rho = 0.2, deff = 1 + 19 * 0.2 = 4.8, n_eff = 400 / 4.8 * (t(399) / t(19))^2.

    Wilson's interval of 400 rows would end at .0095.
    """
    groups = np.repeat(np.arange(20), 20).tolist()
    effective = 400 / 4.8 * (t_quantile(399, 0.95) / t_quantile(19, 0.95)) ** 2
    interval = proportion_interval([0] * 400, groups)
    assert (interval.low, interval.high) == (0.0, pytest.approx(wilson(0, effective)[1]))
    assert interval.high == pytest.approx(0.0497, abs=1e-4)
    assert proportion_interval([1] * 400, groups).high == 1.0


def test_negative_correlation_does_not_shrink_the_interval():
    """One leak in each group of two: the group means do not vary, but n_eff is not above n."""
    interval = proportion_interval([0, 1] * 50, [i // 2 for i in range(100)])
    low, high = wilson(50, 100)
    assert interval.low <= low
    assert interval.high >= high


def test_fewer_than_five_groups_have_no_interval_but_a_reason():
    interval = proportion_interval([0, 1] * 4, [0, 0, 1, 1, 2, 2, 3, 3])
    assert (interval.low, interval.high) == (None, None)
    assert interval.reason == "4 groups of rows, at least 5 are needed"


@pytest.mark.parametrize(("proportion", "correlation"), [(0.06, 0.2), (0.3, 0.1), (0.03, 0.05)])
def test_coverage_of_a_95_percent_interval(proportion, correlation):
    """1000 experiments of 20 authors of 20 rows, with beta-distributed rates per author.

    Wilson's interval of 400 independent rows covers .62 to .84. Rare events cover more than .95, since the lower end
    cannot miss them.
    """
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(20), 20)
    concentration = (1 - correlation) / correlation
    covered = 0
    for _ in range(1000):
        rates = rng.beta(proportion * concentration, (1 - proportion) * concentration, size=20)
        interval = proportion_interval(rng.random(400) < rates[groups], groups.tolist())
        covered += interval.low <= proportion <= interval.high
    assert 926 <= covered <= 995
