"""Value and gradient of every likelihood and preference method against plain loops in float64 over single rows.

The loops below use no padding, mask, chunk, joint forward or loss function of the package: each row goes through the
model by itself, and each formula is written out as in its paper. Logits are projected in float32 by design, so
values agree to about 1e-6.
"""

import math

import pytest
import torch
from tiny_steps import (
    FORGET,
    PREFERRED,
    RETAIN,
    answer_logits,
    make_step,
    mean,
    plain_kl,
    plain_nll,
    row_logits,
    token_logps,
    trained_pair,
    value_and_gradient,
)

from expunge import registry
from expunge.methods.altpo import AltPO
from expunge.methods.ceu import CEU
from expunge.methods.gradascent import GradAscent
from expunge.methods.graddiff import GradDiff
from expunge.methods.idkdpo import IdkDPO
from expunge.methods.idksft import IdkSFT
from expunge.methods.ihl.method import IHL
from expunge.methods.klmin import KLMin
from expunge.methods.npo import NPO
from expunge.methods.pdu import PDU
from expunge.methods.satimp import SatImp
from expunge.methods.simnpo import SimNPO
from expunge.methods.undial import UNDIAL
from expunge.methods.wga import WGA


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def total_logp(model, row):
    return sum(token_logps(model, row))


def npo(model, start, beta, divide=lambda row: 1):
    values = []
    for row in FORGET:
        with torch.no_grad():
            reference = total_logp(start, row)
        ratio = torch.exp((total_logp(model, row) - reference) / divide(row))
        values.append(2 / beta * torch.log(1 + ratio**beta))  # eq. 3 of the paper, in its other form
    return mean(values)


def simnpo(model, beta, gamma, form):
    values = []
    for row in FORGET:
        logp = mean(token_logps(model, row))
        inner = beta * (-logp - gamma) if form == "code" else -beta * logp - gamma
        values.append(-2 / beta * torch.log(sigmoid(inner)))
    return mean(values)


def dpo(model, start, beta, scale):
    values = []
    for loser, winner in zip(FORGET, PREFERRED, strict=True):
        with torch.no_grad():
            won, lost = total_logp(start, winner), total_logp(start, loser)
        inner = beta * (total_logp(model, winner) - won - total_logp(model, loser) + lost)
        values.append(-scale * torch.log(sigmoid(inner)))
    return mean(values)


def weighted(model, weight):
    logps = [logp for row in FORGET for logp in token_logps(model, row)]
    return mean(weight(float(logp.detach().exp())) * logp for logp in logps)


def ce_u(model, skip):
    values = []
    for row in FORGET:
        for z, y in answer_logits(model, row)[skip:]:
            others = z.detach().clone()
            others[y] = -math.inf
            values.append(-(torch.softmax(others, 0) * torch.log_softmax(z, 0)).sum())
    return mean(values)


def undial(model, start, beta):
    values = []
    for row in FORGET:
        for (z, y), (z_ref, _) in zip(answer_logits(model, row), answer_logits(start, row), strict=True):
            lowered = z_ref.detach().clone()
            lowered[y] -= beta
            values.append(-(torch.softmax(lowered, 0) * torch.log_softmax(z, 0)).sum())
    return mean(values)


def undial_everywhere(model, start, beta):
    """All positions except the last of rows padded to 7; padding repeats the position of the row's last token."""
    values = []
    for row in FORGET:
        ids = torch.tensor([list(row.ids) + [0] * (7 - len(row.ids))])
        mask = (torch.arange(7) < len(row.ids)).long()[None]
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        z = model(ids, attention_mask=mask, position_ids=position_ids).logits[0]
        z_ref = start(ids, attention_mask=mask, position_ids=position_ids).logits[0].detach().clone()
        for position in range(6):
            if row.answer_start - 1 <= position < len(row.ids) - 1:
                z_ref[position, row.ids[position + 1]] -= beta
            values.append(-(torch.softmax(z_ref[position], 0) * torch.log_softmax(z[position], 0)).sum())
    return mean(values)


def hinge(model):
    values = []
    for row in FORGET:
        for z, y in answer_logits(model, row):
            p = torch.softmax(z, 0)
            values.append(1 + p[y] - max(p[v] for v in range(len(p)) if v != y))
    return mean(values)


def margin(model, shift):
    values = []
    for row in FORGET:
        for z, _ in answer_logits(model, row, shift):
            values.append((max(z) - z.mean()) ** 2)
    return mean(values)


CASES = {
    "gradascent": (GradAscent(), lambda m, s: -plain_nll(m, FORGET)),
    "graddiff": (
        GradDiff(forget_weight=2, retain_weight=3),
        lambda m, s: -2 * plain_nll(m, FORGET) + 3 * plain_nll(m, RETAIN),
    ),
    "graddiff kl": (GradDiff(retain="kl"), lambda m, s: -plain_nll(m, FORGET) + plain_kl(m, s, RETAIN)),
    "klmin": (KLMin(retain_weight=2), lambda m, s: -plain_nll(m, FORGET) + 2 * plain_kl(m, s, RETAIN)),
    "npo": (NPO(beta=0.3), lambda m, s: npo(m, s, 0.3) + plain_nll(m, RETAIN)),
    "npo alone": (NPO(beta=0.3, retain_weight=0), lambda m, s: npo(m, s, 0.3)),
    "npo mean": (
        NPO(beta=0.3, reduce="mean", retain_weight=0),
        lambda m, s: npo(m, s, 0.3, lambda row: row.num_answer),
    ),
    "simnpo": (SimNPO(beta=2.5), lambda m, s: simnpo(m, 2.5, 0, "code") + plain_nll(m, RETAIN)),
    "simnpo code": (SimNPO(beta=2.5, gamma=0.4, retain_weight=0), lambda m, s: simnpo(m, 2.5, 0.4, "code")),
    "simnpo paper": (
        SimNPO(beta=2.5, gamma=0.4, gamma_form="paper", retain_weight=0),
        lambda m, s: simnpo(m, 2.5, 0.4, "paper"),
    ),
    "idksft": (IdkSFT(), lambda m, s: plain_nll(m, PREFERRED + RETAIN)),
    "idkdpo": (IdkDPO(beta=0.3), lambda m, s: dpo(m, s, 0.3, 2 / 0.3) + plain_nll(m, RETAIN)),
    "idkdpo tofu": (IdkDPO(beta=0.3, two_over_beta=False, retain_weight=0), lambda m, s: dpo(m, s, 0.3, 1)),
    "altpo": (AltPO(beta=0.3, retain_weight=2), lambda m, s: dpo(m, s, 0.3, 2 / 0.3) + 2 * plain_nll(m, RETAIN)),
    "wga": (WGA(beta=0.7), lambda m, s: weighted(m, lambda p: p**0.7) + plain_nll(m, RETAIN)),
    "satimp": (
        SatImp(beta1=2, beta2=1.5),
        lambda m, s: 0.1 * weighted(m, lambda p: p**2 * (1 - p) ** 1.5) + plain_nll(m, RETAIN),
    ),
    "ceu": (CEU(), lambda m, s: ce_u(m, skip=1)),
    "ceu all tokens": (CEU(skip_first=False), lambda m, s: ce_u(m, skip=0)),
    "undial": (UNDIAL(beta=3), lambda m, s: undial(m, s, 3)),
    "undial retain": (UNDIAL(beta=3, retain_weight=1), lambda m, s: undial(m, s, 3) + plain_nll(m, RETAIN)),
    "undial everywhere": (UNDIAL(beta=3, positions="all"), lambda m, s: undial_everywhere(m, s, 3)),
    "ihl": (IHL(), lambda m, s: hinge(m) + plain_nll(m, RETAIN)),
    "pdu": (PDU(epsilon=0.2, lambda_0=7), lambda m, s: margin(m, 0) + 7 * (plain_nll(m, RETAIN) - 0.2)),
    "pdu unshifted": (
        PDU(epsilon=0.2, lambda_0=7, mask_shift=False),
        lambda m, s: margin(m, 1) + 7 * (plain_nll(m, RETAIN) - 0.2),
    ),
}
PADDED = {"undial everywhere"}
"""Published forms whose mean includes padding, so their value depends on it."""

ELSEWHERE = {"gru", "rmu", "adaptivermu", "rmulat", "whp", "taskvector"}
"""Methods tested in other files; their padding in test_padding_of_steps.py and test_whp.py."""


def test_no_method_is_left_out():
    assert {method.name for method, _ in CASES.values()} | ELSEWHERE == set(registry.names("method"))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_those_of_plain_loops(case):
    method, plain = CASES[case]
    model, start = trained_pair()
    objective = method.objective(20, 2)
    got, got_gradient = value_and_gradient(objective(make_step(method, model, start)).total, model)
    expected, expected_gradient = value_and_gradient(plain(model, start), model)
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(got_gradient, expected_gradient, rtol=1e-4, atol=2e-6)
    assert expected_gradient.abs().max() > 1e-3  # a comparison of zeros would prove nothing


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in PADDED])
@pytest.mark.parametrize(
    ("side", "extra_padding", "pad_id"),
    [("right", 5, 0), ("left", 0, 0), ("left", 5, 0), ("right", 5, 2)],
    ids=["right+5", "left", "left+5", "pad is end"],
)
def test_padding_changes_nothing(case, side, extra_padding, pad_id):
    method, _ = CASES[case]
    model, start = trained_pair()
    plain = make_step(method, model, start)
    padded = make_step(method, model, start, side=side, extra_padding=extra_padding, pad_id=pad_id)
    expected, expected_gradient = value_and_gradient(method.objective(20, 2)(plain).total, model)
    got, gradient = value_and_gradient(method.objective(20, 2)(padded).total, model)
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in PADDED])
def test_micro_batches_add_up_to_the_effective_batch(case):
    """A batch of three rows equals one row plus two rows: each micro-batch has its share of value and gradient."""
    method, _ = CASES[case]
    model, start = trained_pair()
    objective = method.objective(20, 2)
    expected, expected_gradient = value_and_gradient(objective(make_step(method, model, start)).total, model)
    value, gradient = 0.0, torch.zeros_like(expected_gradient)
    for part in (slice(0, 1), slice(1, 3)):
        share = objective(make_step(method, model, start, part=part)).total
        more, more_gradient = value_and_gradient(share, model)
        value, gradient = value + more, gradient + more_gradient
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=2e-6)


def test_published_form_of_undial_depends_on_padding():
    method, _ = CASES["undial everywhere"]
    model, start = trained_pair()
    narrow = float(method.loss(make_step(method, model, start)).total.detach())
    wide = float(method.loss(make_step(method, model, start, extra_padding=5)).total.detach())
    assert abs(narrow - wide) > 1e-3


def test_published_form_of_kl_depends_on_padding_and_is_the_mean_over_all_positions():
    method = KLMin(kl_positions="all")
    model, start = trained_pair()
    narrow = float(method.loss(make_step(method, model, start)).terms["retain"])
    wide = float(method.loss(make_step(method, model, start, extra_padding=5)).terms["retain"])
    assert abs(narrow - wide) > 1e-4
    row = RETAIN[:1]
    step = make_step(method, model, start, rows={"forget": FORGET[:1], "retain": row})
    logp, reference = (torch.log_softmax(row_logits(m, row[0]), -1) for m in (model, start))
    expected = float((reference.exp() * (reference - logp)).sum(-1).mean())
    assert float(method.loss(step).terms["retain"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("retain", ["graddiff kl", "klmin"])
def test_kl_from_the_reference_to_itself_is_zero(retain):
    method, _ = CASES[retain]
    model, _ = trained_pair()
    assert float(method.loss(make_step(method, model, model)).terms["retain"].detach()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("method", [NPO(beta=0.1), IdkDPO(beta=0.1), AltPO(beta=0.1)])
def test_preference_losses_begin_at_two_over_beta_log_two(method):
    """At the reference every log-ratio is 0: (2 / 0.1) * log 2 = 13.8629."""
    model, _ = trained_pair()
    assert float(method.loss(make_step(method, model, model)).terms["forget"]) == pytest.approx(13.862944, abs=1e-4)


def test_npo_at_the_reference_has_the_gradient_of_ascent_on_the_summed_log_probability():
    """d/d(logp) of -(2 / beta) log sigmoid(-beta d) is 2 sigmoid(beta d), which is 1 at d = 0."""
    model, _ = trained_pair()
    method = NPO(beta=0.1, retain_weight=0)
    _, got = value_and_gradient(method.loss(make_step(method, model, model)).total, model)
    _, expected = value_and_gradient(mean(total_logp(model, row) for row in FORGET), model)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


def test_chunks_change_nothing(monkeypatch):
    """Three logits rows at a time, with the backward pass through checkpoints, for every loss on logits."""
    from expunge.modeling import logprobs

    model, start = trained_pair()
    for case in ("graddiff kl", "ceu", "undial everywhere", "ihl", "pdu", "npo"):
        method, _ = CASES[case]
        objective = method.objective(20, 2)
        monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 2**25)
        expected = value_and_gradient(objective(make_step(method, model, start)).total, model)
        monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 3 * 13)
        got = value_and_gradient(objective(make_step(method, model, start)).total, model)
        assert got[0] == pytest.approx(expected[0], rel=1e-6)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-7)
