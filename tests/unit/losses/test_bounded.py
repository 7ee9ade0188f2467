"""Bounded losses (inverted hinge, logit margin, UNDIAL, CE-U, KL): values by hand and gradients by formula."""

import math

import pytest
import torch

from expunge.losses import divergence
from expunge.losses.distillation import ce_u, undial
from expunge.losses.divergence import kl_divergence, soft_cross_entropy
from expunge.losses.margins import inverted_hinge, logit_margin


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64).log().requires_grad_()


def test_inverted_hinge_by_hand():
    """The competitor is the best other token, whether it is less likely (0.3 to 0.6) or more likely (0.7 to 0.1)."""
    z = logits([0.3, 0.6, 0.1], [0.1, 0.2, 0.7])
    assert inverted_hinge(z, torch.tensor([1, 0])).tolist() == pytest.approx([1.3, 0.4])


def test_inverted_hinge_is_between_zero_and_two():
    z = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert inverted_hinge(z, torch.tensor([0, 0])).tolist() == pytest.approx([2.0, 0.0])


def test_inverted_hinge_moves_probability_to_the_competitor():
    """With competitor c, dL/dz_v = p_v * ([v = y] - [v = c] - p_y + p_c): 0.6 * 0.7, 0.3 * -1.3, 0.1 * -0.3."""
    z = logits([0.6, 0.3, 0.1])
    inverted_hinge(z, torch.tensor([0])).backward()
    assert z.grad[0].tolist() == pytest.approx([0.42, -0.39, -0.03])


def test_logit_margin_by_hand():
    """(5 - (5 + 2 - 1) / 3)^2 = 9; adding a constant to all logits does not change the loss."""
    z = torch.tensor([[5.0, 2.0, -1.0]])
    assert logit_margin(z).item() == pytest.approx(9)
    assert logit_margin(z + 100).item() == pytest.approx(9)


def test_logit_margin_is_zero_for_a_uniform_prediction_only():
    assert logit_margin(torch.full((1, 7), 3.0)).item() == 0
    assert logit_margin(torch.tensor([[3.0] * 6 + [2.0]])).item() > 0


def test_undial_by_hand():
    """Reference (1/2, 1/4, 1/4), answer 0, beta = log 2: the answer's weight falls to 1/4, so q is uniform.

    Against p = (1/2, 1/4, 1/4): L = (log 2 + log 4 + log 4) / 3 = 5/3 log 2.
    """
    z = logits([0.5, 0.25, 0.25])
    loss = undial(z, torch.tensor([0]), z.detach(), math.log(2))
    assert loss.item() == pytest.approx(5 / 3 * math.log(2))


def test_undial_without_a_label_distils_the_reference():
    """q = p_ref, so if the model equals the reference, L is the entropy: 1/2 log 2 + 2 * 1/4 log 4 = 3/2 log 2."""
    z = logits([0.5, 0.25, 0.25])
    loss = undial(z, torch.tensor([-1]), z.detach(), 10.0)
    loss.backward()
    assert loss.item() == pytest.approx(1.5 * math.log(2))
    assert z.grad.abs().max().item() == pytest.approx(0, abs=1e-12)


def test_undial_does_not_modify_the_reference_logits():
    reference = torch.zeros(1, 3)
    undial(torch.zeros(1, 3), torch.tensor([1]), reference, 10.0)
    assert reference.tolist() == [[0.0, 0.0, 0.0]]


def test_undial_has_its_minimum_at_the_lowered_reference_logits():
    """The gradient of the cross-entropy is p - q, which is 0 if the model's logits equal the lowered ones."""
    reference = logits([0.5, 0.3, 0.2]).detach()
    z = (reference - torch.tensor([[10.0, 0.0, 0.0]])).requires_grad_()
    undial(z, torch.tensor([0]), reference, 10.0).backward()
    assert z.grad.abs().max().item() == pytest.approx(0, abs=1e-12)


def test_ce_u_by_hand():
    """p = (0.4, 0.4, 0.2), answer 0: q = (0, 2/3, 1/3), L = -(2/3) log 0.4 - (1/3) log 0.2."""
    loss = ce_u(logits([0.4, 0.4, 0.2]), torch.tensor([0]))
    assert loss.item() == pytest.approx(-2 / 3 * math.log(0.4) - 1 / 3 * math.log(0.2))


def test_ce_u_has_the_gradient_p_minus_q():
    """Answer: 0.4 - 0; other tokens: 0.4 - 2/3 and 0.2 - 1/3. No gradient flows through q."""
    z = logits([0.4, 0.4, 0.2])
    ce_u(z, torch.tensor([0])).backward()
    assert z.grad[0].tolist() == pytest.approx([0.4, 0.4 - 2 / 3, 0.2 - 1 / 3])


def test_ce_u_of_a_certain_answer_is_finite():
    z = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    loss = ce_u(z, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(80, rel=1e-5)
    assert torch.isfinite(z.grad).all()


def test_kl_of_equal_predictions_is_zero_with_zero_gradient():
    z = logits([0.5, 0.25, 0.25])
    loss = kl_divergence(z.detach() + 3, z)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert z.grad.abs().max().item() == pytest.approx(0, abs=1e-7)


def test_kl_by_hand():
    """KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 log(2/3) + 1/2 log 2 = 1/2 log(4/3)."""
    assert kl_divergence(logits([0.5, 0.5]), logits([0.75, 0.25])).item() == pytest.approx(0.5 * math.log(4 / 3))


@pytest.mark.parametrize("elements", [1, 14, 21, 2**22])
def test_divergences_equal_plain_operations(monkeypatch, elements):
    """Values and gradients of -sum q log p and sum q log(q / p), in chunks of 1, 2, 3 and all 4 rows.

    The weights differ by row, and a second loss depends on the same logits.
    """
    monkeypatch.setattr(divergence, "CHUNK_ELEMENTS", elements)
    torch.manual_seed(0)
    z = torch.randn(4, 7, requires_grad=True)
    target_logits = torch.randn(4, 7)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    q = target_logits.softmax(-1)
    for values, expected in (
        (soft_cross_entropy(z, target_logits), -(q * z.log_softmax(-1)).sum(-1)),
        (kl_divergence(target_logits, z), (q * (q.log() - z.log_softmax(-1))).sum(-1)),
    ):
        torch.testing.assert_close(values, expected)
        gradient, expected_gradient = (
            torch.autograd.grad((losses * weights).sum() + z.square().sum(), z)[0] for losses in (values, expected)
        )
        torch.testing.assert_close(gradient, expected_gradient)
