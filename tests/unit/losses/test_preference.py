"""NPO, SimNPO and DPO: values by hand, limits and bounds."""

import math

import pytest
import torch

from expunge.losses.preference import dpo, npo, simnpo


def logps(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5, 2.0])
def test_npo_at_the_reference_is_two_over_beta_log_two(beta):
    x = logps(-30.0)
    assert npo(x, x.detach(), beta).item() == pytest.approx(2 / beta * math.log(2))


def test_npo_by_hand():
    """beta 0.5 and log-ratio 2 log 3: exp(0.5 * 2 log 3) = 3, so L = 4 log(1 + 3) = 8 log 2."""
    assert npo(logps(2 * math.log(3)), logps(0.0), 0.5).item() == pytest.approx(8 * math.log(2))


def test_npo_weight_of_a_row_by_hand():
    """dL/d(logp) = 2 r / (1 + r) with r = exp(beta * log-ratio): r = 3 gives 3/2, r = 1 gives 1, r = 1/3 gives 1/2."""
    x = logps(math.log(3) / 0.1, 0.0, -math.log(3) / 0.1)
    npo(x, torch.zeros(3), 0.1).sum().backward()
    assert x.grad.tolist() == pytest.approx([1.5, 1.0, 0.5])


def test_npo_becomes_gradient_ascent_for_small_beta():
    """As beta -> 0 the weight 2 sigmoid(beta d) tends to 1 for every d; gradient ascent minimises logp, gradient 1."""
    x = logps(-40.0, -1.0, 25.0)
    npo(x, torch.full((3,), -7.0), 1e-6).sum().backward()
    assert x.grad.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)


def test_npo_is_never_negative_and_does_not_overflow():
    x = logps(-1e6, 1e4)
    losses = npo(x, torch.zeros(2), 0.1)
    assert losses[0].item() == 0
    assert losses[1].item() == pytest.approx(2e4)  # (2 / beta) * beta * d, for large d


def test_simnpo_by_hand():
    """mean_logp = -log 3 and beta 1: sigmoid(log 3) = 3/4, so L = -2 log(3/4) = 2 log(4/3)."""
    assert simnpo(logps(-math.log(3)), 1.0, 0.0).item() == pytest.approx(2 * math.log(4 / 3))


def test_the_two_gammas_of_simnpo():
    """code: beta * (l - g); paper: beta * l - g. For beta 2 and l = log 3, g = 1/2 in code is g = 1 in paper."""
    x = logps(-math.log(3))
    code, paper = simnpo(x, 2.0, 0.5, "code"), simnpo(x, 2.0, 1.0, "paper")
    assert code.item() == pytest.approx(paper.item())
    assert code.item() == pytest.approx(math.log(1 + math.exp(1) / 9))  # (2/2) * log(1 + e^-(2 log 3 - 1))
    assert simnpo(x, 2.0, 0.5, "paper").item() != pytest.approx(code.item(), abs=1e-3)


def test_the_two_forms_of_simnpo_agree_for_gamma_zero():
    x = logps(-0.2, -3.0)
    assert torch.equal(simnpo(x, 4.5, 0.0, "code"), simnpo(x, 4.5, 0.0, "paper"))


def test_simnpo_becomes_gradient_ascent_for_small_beta():
    """As beta -> 0: L * beta / 2 -> log 2, and dL/d(mean_logp) = 2 sigmoid(beta * mean_logp) -> 1."""
    x = logps(-0.5, -6.0)
    losses = simnpo(x, 1e-6, 0.0)
    losses.sum().backward()
    assert (losses * 1e-6 / 2).tolist() == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert x.grad.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
def test_dpo_at_the_reference(beta):
    """Both log-ratios are 0: c * log 2, with c = 2 / beta or 1."""
    chosen, rejected = logps(-4.0), logps(-30.0)
    pair = (chosen, chosen.detach(), rejected, rejected.detach())
    assert dpo(*pair, beta).item() == pytest.approx(2 / beta * math.log(2))
    assert dpo(*pair, beta, two_over_beta=False).item() == pytest.approx(math.log(2))


def test_dpo_by_hand():
    """Chosen up by log 2, rejected down by log 4, beta 1: sigmoid(log 8) = 8/9, so L = 2 log(9/8)."""
    loss = dpo(logps(math.log(2)), logps(0.0), logps(-math.log(4)), logps(0.0), 1.0)
    assert loss.item() == pytest.approx(2 * math.log(9 / 8))


def test_dpo_pushes_chosen_and_rejected_by_equal_amounts():
    """At the reference dL/d(chosen) = -c beta / 2 = -1 and dL/d(rejected) = +1."""
    chosen, rejected = logps(-4.0), logps(-30.0)
    dpo(chosen, chosen.detach(), rejected, rejected.detach(), 0.1).backward()
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-1.0, 1.0))


def test_dpo_with_an_unchanged_chosen_answer_is_npo():
    rejected, reference = logps(-3.0, -50.0), logps(-10.0, -10.0)
    chosen = torch.tensor([-8.0, -9.0])
    torch.testing.assert_close(dpo(chosen, chosen, rejected, reference, 0.1), npo(rejected, reference, 0.1))
