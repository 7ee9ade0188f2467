"""Distances of hidden states, and the direction to which they are steered: values by hand and gradients by formula."""

import math

import pytest
import torch

from expunge.losses.representation import control_vector, cosine, relative_distance, squared_distance


def test_squared_distance_by_hand():
    """To (1, 0): (4 + 16) / 2 = 10 and (0 + 4) / 2 = 2, one value per position."""
    hidden = torch.tensor([[3.0, 4.0], [1.0, -2.0]])
    assert squared_distance(hidden, torch.tensor([1.0, 0.0])).tolist() == [10.0, 2.0]
    assert squared_distance(hidden, hidden).tolist() == [0.0, 0.0]


def test_gradient_of_the_squared_distance_points_away_from_the_target():
    """d/dh (1 / D) |h - t|^2 = 2 (h - t) / D: (2, 4) for D = 2."""
    hidden = torch.tensor([3.0, 4.0], requires_grad=True)
    squared_distance(hidden, torch.tensor([1.0, 0.0])).backward()
    assert hidden.grad.tolist() == [2.0, 4.0]


def test_distances_of_half_precision_are_computed_in_float32():
    """300^2 = 90,000 is infinite in float16."""
    distance = squared_distance(torch.full((2,), 300.0, dtype=torch.float16), torch.zeros(2, dtype=torch.float16))
    assert distance.dtype == torch.float32
    assert distance.item() == 90_000


def test_cosine_by_hand():
    """Parallel, perpendicular, opposite, and at 45 degrees to (2, 0); lengths do not matter."""
    hidden = torch.tensor([[5.0, 0.0], [0.0, 3.0], [-0.1, 0.0], [1.0, 1.0]])
    assert cosine(hidden, torch.tensor([2.0, 0.0])).tolist() == pytest.approx([1, 0, -1, math.sqrt(0.5)])


def test_relative_distance_by_hand():
    """From (3, 4), of length 5, to (3, 1): 3 / 5."""
    assert relative_distance(torch.tensor([3.0, 1.0]), torch.tensor([3.0, 4.0])).item() == pytest.approx(0.6)


@pytest.mark.parametrize("scale", [1.0, 6.5])
def test_control_vector_has_the_given_length_and_no_negative_entry(scale):
    """r / |r| with r uniform on [0, 1): two samples have a cosine near E[r]^2 / E[r^2] = (1/4) / (1/3) = 3/4."""
    generator = torch.Generator().manual_seed(0)
    first, second = (control_vector(4096, scale, generator) for _ in range(2))
    assert first.norm().item() == pytest.approx(scale, rel=1e-5)
    assert first.min() >= 0
    assert cosine(first, second).item() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(first, control_vector(4096, scale, torch.Generator().manual_seed(0)))
