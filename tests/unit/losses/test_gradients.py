"""Gradient rectification: values by hand, and that the result never opposes the retain gradient."""

import pytest
import torch

from expunge.losses.gradients import rectify


def inner(left, right):
    return float(sum((a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)))


def test_the_conflicting_component_is_removed():
    """g = (3, -4), r = (0, 2): <g, r> = -8, ||r||^2 = 4, so g + 2 r = (3, 0)."""
    assert rectify([torch.tensor([3.0, -4.0])], [torch.tensor([0.0, 2.0])])[0].tolist() == [3.0, 0.0]


def test_a_gradient_without_conflict_does_not_change():
    gradient = [torch.tensor([3.0, 4.0])]
    assert torch.equal(rectify(gradient, [torch.tensor([0.0, 2.0])])[0], gradient[0])


def test_the_inner_product_is_over_all_parameters_together():
    """g = (-1 | 5), r = (1 | 1): -1 + 5 > 0, so the negative product of the first parameter is no conflict."""
    gradient = [torch.tensor([-1.0]), torch.tensor([5.0])]
    assert [float(g) for g in rectify(gradient, [torch.ones(1), torch.ones(1)])] == [-1.0, 5.0]


def test_a_retain_gradient_of_zero_changes_nothing():
    gradient = [torch.tensor([3.0, -4.0])]
    assert torch.equal(rectify(gradient, [torch.zeros(2)])[0], gradient[0])


@pytest.mark.parametrize("seed", range(20))
def test_the_result_never_opposes_the_retain_gradient(seed):
    torch.manual_seed(seed)
    shapes = [(3, 2), (5,), (1, 4)]
    gradient, retain = ([torch.randn(shape).double() for shape in shapes] for _ in range(2))
    result = rectify(gradient, retain)
    assert inner(result, retain) >= -1e-9
    # The length of the retain gradient has no effect, and that of the forget gradient only scales the result.
    for scaled in (
        rectify(gradient, [1e3 * r for r in retain]),
        [g / 7 for g in rectify([7 * g for g in gradient], retain)],
    ):
        for a, b in zip(result, scaled, strict=True):
            torch.testing.assert_close(a, b)
