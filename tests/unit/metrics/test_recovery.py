"""Tests, intervals and corrections of differences between models, by hand."""

import numpy as np
import pytest
from scipy import stats

from expunge.metrics.intervals import mean_interval
from expunge.metrics.recovery import Mean, holm, residual, share_at_ends

FIVE = list("abcde")
VALUES = [0.1, 0.2, 0.3, 0.4, 0.5]
"""Mean .3; variance of the mean .025 / 5 = .005, as the sample variance is (.04 + .01 + 0 + .01 + .04) / 4 = .025."""


def test_mean_of_five_groups_by_hand():
    mean = Mean.of(VALUES, FIVE)
    assert mean.value == pytest.approx(0.3)
    assert mean.error == pytest.approx(0.005**0.5)
    assert mean.degrees_of_freedom == pytest.approx(4)
    assert (mean.num_rows, mean.num_groups) == (5, 5)


def test_rows_of_a_group_count_once():
    """Every value repeated in its group: the spread between groups, and with it the error, stays the same."""
    once, often = Mean.of(VALUES, FIVE), Mean.of(np.repeat(VALUES, 20), np.repeat(FIVE, 20).tolist())
    assert often.error == pytest.approx(once.error)
    assert often.degrees_of_freedom == pytest.approx(4)


def test_no_test_below_five_groups():
    assert Mean.of([0.1, 0.2, 0.3, 0.4], list("abcd")) is None


def test_one_sided_tests_are_the_t_test():
    mean = Mean.of(VALUES, FIVE)
    assert mean.p_above() == pytest.approx(stats.ttest_1samp(VALUES, 0, alternative="greater").pvalue)
    assert mean.p_below(0.6) == pytest.approx(stats.ttest_1samp(VALUES, 0.6, alternative="less").pvalue)
    assert mean.p_above(0.3) == pytest.approx(0.5)


def test_equivalence_is_the_worse_of_two_tests_and_agrees_with_the_interval():
    """p < .05 exactly if the 90% interval is within the margin."""
    mean = Mean.of([0.02, -0.01, 0.03, 0.0, 0.01], FIVE)
    ends = mean.interval(0.9)
    assert mean.p_different(max(ends.high, -ends.low)) == pytest.approx(0.05)
    assert mean.p_different(0.5) < 0.001
    assert mean.p_different(0.01) > 0.05


def test_interval_is_the_t_interval_of_group_means():
    groups = np.repeat(FIVE, 3).tolist()
    values = np.random.default_rng(0).normal(size=15)
    ours, theirs = Mean.of(values, groups).interval(), mean_interval(values, groups)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_without_spread_the_side_decides():
    mean = Mean.of([0.2] * 5, FIVE)
    assert (mean.p_above(), mean.p_above(0.2), mean.p_below()) == (0.0, 1.0, 1.0)


def test_detectable_difference_by_hand():
    """t_4(.95) = 2.1318 and t_4(.8) = .9410: 3.0728 standard errors of sqrt(.005)."""
    assert Mean.of(VALUES, FIVE).detectable(0.05) == pytest.approx(3.0728 * 0.005**0.5, rel=1e-4)


def test_groups_for_a_margin_by_hand():
    """(1.6449 + 1.2816)^2 * 5 groups * .005 / .1^2 = 21.4; halving the margin needs four times as many."""
    mean = Mean.of(VALUES, FIVE)
    assert mean.groups_for(0.1, 0.05) == 22
    assert mean.groups_for(0.05, 0.05) == 86
    assert mean.groups_for(10, 0.05) == 5


def test_so_many_groups_do_show_equality():
    """Simulated: with the number of groups that is stated, about 80% of the audits of equal models succeed."""
    rng = np.random.default_rng(1)
    needed = Mean(0.0, 0.1, 19, 20, 20).groups_for(0.1, 0.05)  # values of standard deviation .1 sqrt(20)
    shown = [
        Mean.of(rng.normal(0, 0.1 * 20**0.5, needed), list(range(needed))).p_different(0.1) < 0.05 for _ in range(400)
    ]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)


def test_five_outcomes_without_a_leak_prove_nothing():
    """0 of 5 against 0 of 5. With two rows added, +1 and -1: mean 0, variance (2 / 7) / 7, error .202."""
    mean = Mean.of([0.0] * 5, FIVE, ends=1.0)
    assert (mean.value, mean.error) == (0.0, pytest.approx((2 / 49) ** 0.5))
    assert mean.p_different(0.05) > 0.4
    assert Mean.of([0.0] * 5, FIVE).p_different(0.05) == 0.0  # equal graded scores are equal


def test_five_leaks_of_five_are_about_as_unlikely_as_by_a_sign_test():
    """Mean 5 / 7, variance (1 - 25 / 49) / 7: t = 2.70 with 4 degrees of freedom, p = .027; signs give 1 / 32."""
    mean = Mean.of([1.0] * 5, FIVE, ends=1.0)
    assert mean.value == pytest.approx(5 / 7)
    assert mean.error == pytest.approx(((1 - 25 / 49) / 7) ** 0.5)
    assert mean.p_above() == pytest.approx(0.027, abs=0.001)


def test_ends_of_independent_rows_are_bonett_and_price():
    """60 rows, 12 of +1 and 4 of -1: p1 = 13 / 62, p2 = 5 / 62, variance (p1 + p2 - (p1 - p2)^2) / 62."""
    mean = Mean.of([1.0] * 12 + [-1.0] * 4 + [0.0] * 44, list(range(60)), ends=1.0)
    assert mean.value == pytest.approx(8 / 62)
    assert mean.error**2 == pytest.approx((18 / 62 - (8 / 62) ** 2) / 62)


def test_one_event_does_not_make_dependent_rows_independent():
    """One leak in 100 rows about 5 people: the correlation is assumed to be near .2, so the rows are worth about 25."""
    groups = np.repeat(FIVE, 20).tolist()
    events = Mean.of([1.0] + [0.0] * 99, groups, ends=1.0)
    alone = Mean.of([1.0] + [0.0] * 99, list(range(100)), ends=1.0)
    assert events.error > 1.8 * alone.error


def test_share_at_ends():
    assert share_at_ends([0.0, 1.0, 0.5, 1.0], [1.0, 0.0, 0.0, 0.2]) == 0.5


def test_holm_by_hand():
    """Ascending .01, .02, .04: 3 * .01, then 2 * .02, then max(.04, 1 * .04)."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_residual_by_hand():
    """(.5 - .1) / (.9 - .1) = .5, in every group, so the interval is a point."""
    point, interval = residual([0.5] * 5, [0.1] * 5, [0.9] * 5, FIVE)
    assert point == pytest.approx(0.5)
    assert (interval.low, interval.high) == pytest.approx((0.5, 0.5), abs=1e-6)


def test_residual_is_1_of_the_target_and_0_of_the_retain_model():
    rng = np.random.default_rng(2)
    retain, target = rng.uniform(0.1, 0.3, 60), rng.uniform(0.5, 0.9, 60)
    groups = np.repeat(np.arange(12), 5).tolist()
    for model, expected in ((target, 1.0), (retain, 0.0)):
        point, interval = residual(model, retain, target, groups)
        assert point == pytest.approx(expected)
        assert (interval.low, interval.high) == pytest.approx((expected, expected), abs=1e-6)


def test_interval_of_the_residual_is_fieller_s():
    """Its ends solve (m_x - R m_y)^2 = t^2 V(x - R y) for the covariance of group means, a quadratic equation."""
    rng = np.random.default_rng(3)
    retain = rng.uniform(0.1, 0.3, 10)
    x, y = rng.normal(0.2, 0.1, 10), rng.normal(0.5, 0.1, 10)
    _, interval = residual(retain + x, retain, retain + y, list(range(10)))
    variance, quantile = np.cov(x, y) / 10, stats.t.ppf(0.975, 9) ** 2
    roots = np.roots(
        [
            y.mean() ** 2 - quantile * variance[1, 1],
            -2 * (x.mean() * y.mean() - quantile * variance[0, 1]),
            x.mean() ** 2 - quantile * variance[0, 0],
        ]
    )
    assert (interval.low, interval.high) == pytest.approx(sorted(roots), abs=1e-6)


def test_residual_needs_a_target_that_knows_more():
    assert residual([0.5] * 5, [0.9] * 5, [0.9] * 5, FIVE)[0] is None
    point, interval = residual([0.2] * 6, [0.1] * 6, [0.9, 0.0, 0.1, 0.2, 0.0, 0.1], [*FIVE, "f"])
    assert point is not None
    assert interval.low is None
    assert "too few to show that the target knows more" in interval.reason
    assert "4 groups" in residual([0.5] * 4, [0.1] * 4, [0.9] * 4, list("abcd"))[1].reason
