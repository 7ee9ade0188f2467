"""Model utility, forget quality and its paired version: closed forms, invariances and samples that are too small."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.metrics.agreement import agreement_values, forget_quality, model_utility, paired_forget_quality
from expunge.metrics.kolmogorov_smirnov import PairedScores, distance_interval, ks_test, log_pvalue_equal_sizes


def test_utility_closed_form():
    """Eight ones and 1/2: 9 / (8 + 2) = 0.9. The mean of nine equal scores is that score."""
    assert float(model_utility([1.0] * 8 + [0.5])) == pytest.approx(0.9, abs=1e-15)
    assert float(model_utility([0.3] * 9)) == pytest.approx(0.3, abs=1e-15)


@pytest.mark.parametrize("position", range(9))
def test_utility_is_zero_if_any_component_is_zero(position):
    components = [0.7] * 9
    components[position] = 0.0
    assert float(model_utility(components)) == 0.0


def test_utility_is_computed_per_row():
    np.testing.assert_allclose(model_utility([[0.5] * 9, [0.25] * 9]), [0.5, 0.25])


@pytest.mark.parametrize("components", [[0.5] * 8, 0.5, [0.5] * 8 + [-0.1]])
def test_invalid_components_of_utility_are_rejected(components):
    with pytest.raises(ValueError, match="model utility"):
        model_utility(components)


def test_forget_quality_of_a_model_against_itself_is_one():
    ratios = np.random.default_rng(0).lognormal(size=100)
    test = ks_test(ratios, ratios)
    assert (test.statistic, test.pvalue, test.log10_pvalue) == (0.0, 1.0, 0.0)


def test_forget_quality_does_not_change_under_inversion():
    """1/R reverses the order of both samples, which does not change the largest distance."""
    rng = np.random.default_rng(1)
    model, retain_model = rng.lognormal(size=80), rng.lognormal(0.5, size=80)
    assert forget_quality(model, retain_model) == pytest.approx(forget_quality(1 / model, 1 / retain_model), rel=1e-12)
    assert forget_quality(model, retain_model) < 0.05


def values_of(model, retain_model, groups, resamples=200):
    return agreement_values(model, retain_model, groups, "scores of two models", resamples=resamples, seed=0)


def test_interval_is_the_pvalue_at_both_ends_of_the_distance():
    rng = np.random.default_rng(2)
    model, retain_model = rng.normal(0.4, 1, 100), rng.normal(size=100)
    groups = np.repeat(range(20), 5).tolist()
    quality, _ = values_of(model, retain_model, groups)
    distance = distance_interval(PairedScores.of(model, retain_model, groups), 200, seed=0)
    ends = [math.exp(log_pvalue_equal_sizes(math.ceil(100 * end - 1e-9), 100)) for end in (distance.high, distance.low)]
    assert [quality.low, quality.high] == pytest.approx(ends, rel=1e-12)
    assert quality.low < quality.point < quality.high
    assert (quality.extra["ks_low"], quality.extra["ks_high"]) == (distance.low, distance.high)
    assert "20 groups" in quality.how


def test_point_is_the_published_pvalue_and_extra_has_distance_and_logarithm():
    rng = np.random.default_rng(3)
    model, retain_model = rng.normal(1, 1, 60), rng.normal(size=60)
    quality, _ = values_of(model, retain_model, range(60), resamples=0)
    test = ks_test(model, retain_model)
    assert quality.point == test.pvalue == forget_quality(model, retain_model)
    assert quality.extra["log10"] == test.log10_pvalue
    assert quality.extra["ks"] == test.statistic
    assert quality.extra["smallest_p"] == pytest.approx(2 / math.comb(120, 60))
    assert quality.low is None
    assert quality.no_interval == ""


def test_how_states_that_the_threshold_is_no_test_at_its_level():
    quality, _ = values_of(np.arange(10.0), np.arange(10.0), range(10))
    assert "p < 0.05 is not a test at the 5% level" in quality.how


def test_paired_version_is_a_value_of_its_own_and_in_extra():
    rng = np.random.default_rng(4)
    model, groups = rng.normal(size=80), np.repeat(range(8), 10).tolist()
    retain_model = model + rng.normal(0, 0.1, 80)
    quality, paired = values_of(model, retain_model, groups)
    assert quality.extra["paired_p"] == paired.point == paired_forget_quality(model, retain_model, groups)
    assert paired.extra["smallest_p"] == 1 / 128
    assert paired.extra["log10"] == pytest.approx(math.log10(paired.point))
    assert "all 128 swaps of the models in 8 groups" in paired.how


@pytest.mark.parametrize(("num_rows", "smallest"), [(1, "1"), (2, "0.33"), (3, "0.1")])
def test_few_rows_have_no_pvalue(num_rows, smallest):
    """Rows that are all still known would have p = 1, 1/3 and 1/10, above any threshold for 'forgotten'."""
    known, unknown = np.arange(1.0, num_rows + 1), np.arange(1.0, num_rows + 1) + 100
    for value in values_of(known, unknown, range(num_rows)):
        assert value.point is None
        assert value.n == num_rows
        assert value.needs == (
            f"at least 4 forget rows; with {num_rows} the smallest possible p-value is {smallest}, so agreement cannot "
            "be concluded"
        )
        assert value.extra["ks"] == 1.0
    quality, _ = values_of(np.arange(4.0), np.arange(4.0) + 100, range(4))
    assert quality.point == pytest.approx(2 / 70)


def test_few_groups_have_a_published_pvalue_but_no_paired_one_and_no_interval():
    groups = np.repeat(range(3), 20).tolist()
    quality, paired = values_of(np.arange(60.0), np.arange(60.0) + 5, groups)
    assert quality.point is not None
    assert quality.no_interval == "3 groups of rows, at least 5 are needed"
    assert "paired_p" not in quality.extra
    assert paired.point is None
    assert paired.needs.startswith("at least 6 groups of forget rows; with 3 the smallest possible p-value is 0.25")
