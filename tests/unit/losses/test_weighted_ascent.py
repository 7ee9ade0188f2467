"""Row sums, WGA and SatImp: values by hand, and weights through which no gradient flows."""

import math

import pytest
import torch

from expunge.losses.likelihood import row_sums, satimp, wga


def probabilities(*values):
    return torch.tensor(values, dtype=torch.float64).log().requires_grad_()


def test_row_sums_by_hand():
    """Tokens 1, 2 of row 0, none of row 1, 4 of row 2."""
    sums = row_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    assert sums.tolist() == [3.0, 0.0, 4.0]


def test_row_sums_of_half_precision_are_float32():
    """256 + 1 is 256 in bfloat16."""
    sums = row_sums(torch.tensor([256.0, 1.0], dtype=torch.bfloat16), torch.tensor([0, 0]), 1)
    assert sums.dtype == torch.float32
    assert sums.item() == 257


def test_wga_by_hand():
    """p = 1/4, beta = 1/2: weight 1/2, loss 1/2 log 1/4 = -log 2; the gradient is the weight."""
    x = probabilities(0.25)
    loss = wga(x, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2))
    assert x.grad.item() == pytest.approx(0.5)


def test_satimp_by_hand():
    """p = 1/2, beta1 = 5, beta2 = 1: weight 2^-6, loss -log(2) / 64; the gradient is the weight."""
    x = probabilities(0.5)
    loss = satimp(x, 5.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2) / 64)
    assert x.grad.item() == pytest.approx(1 / 64)


def test_satimp_weight_is_largest_at_beta1_over_the_sum_of_both():
    """d/dp p^5 (1 - p) = 0 at p = 5/6."""
    x = probabilities(*[k / 600 for k in range(1, 600)])
    satimp(x, 5.0, 1.0).sum().backward()
    assert int(x.grad.argmax()) + 1 == 500


def test_satimp_of_a_certain_token_is_zero_and_finite():
    x = torch.zeros(1, requires_grad=True)
    loss = satimp(x, 5.0, 0.5)
    loss.backward()
    assert loss.item() == 0
    assert x.grad.item() == 0


def test_exponents_of_zero_give_gradient_ascent():
    x = probabilities(0.2, 0.9)
    assert torch.equal(wga(x, 0.0), x)
    assert torch.equal(satimp(x, 0.0, 0.0), x)
