"""Results do not depend on the side or the amount of padding."""

import pytest
import tiny
import torch

from expunge.methods.graddiff import GradDiff
from expunge.methods.npo import NPO
from expunge.methods.simnpo import SimNPO

SETS = {"forget": tiny.rows(5, seed=1), "retain": tiny.rows(4, seed=2)}
LAYOUTS = [("right", 5), ("left", 0), ("left", 3)]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize(("side", "extra"), LAYOUTS)
def test_token_log_probabilities(architecture, side, extra):
    model = tiny.model(architecture)
    plain = tiny.step(model, SETS)
    padded = tiny.step(model, SETS, side=side, extra_padding=extra)
    for name in SETS:
        torch.testing.assert_close(padded.token_logp(name), plain.token_logp(name), rtol=0, atol=2e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_token_log_probabilities_equal_those_of_single_rows(architecture, side):
    """Compare with the direct computation: one unpadded row, all logits, log-softmax, the entry of the next token."""
    model = tiny.model(architecture)
    padded = tiny.step(model, SETS, side=side).token_logp("forget")
    expected = []
    for row in SETS["forget"]:
        logp = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        expected += [logp[i - 1, row.ids[i]] for i in range(row.answer_start, len(row.ids))]
    torch.testing.assert_close(padded, torch.stack(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "method",
    [GradDiff(), GradDiff(retain="kl"), NPO(), NPO(retain="kl"), SimNPO(), SimNPO(gamma=0.5, gamma_form="paper")],
    ids=repr,
)
@pytest.mark.parametrize(("side", "extra"), LAYOUTS)
def test_losses_and_gradients(method, side, extra):
    start, model = tiny.model(seed=0), tiny.model(seed=1)
    plain = method.loss(tiny.step(model, SETS, start=start))
    padded = method.loss(tiny.step(model, SETS, start=start, side=side, extra_padding=extra))
    for name in plain.terms:
        torch.testing.assert_close(padded.terms[name], plain.terms[name], rtol=1e-5, atol=0)
    tiny.assert_close(tiny.gradients(model, plain), tiny.gradients(model, padded))


def test_kl_at_all_positions_includes_padding():
    """The published form of the KL term averages over padding too, so it is not the default."""
    start, model = tiny.model(seed=0), tiny.model(seed=1)
    method = GradDiff(retain="kl", kl_positions="all")
    plain = method.loss(tiny.step(model, SETS, start=start)).terms["retain"].detach()
    padded = method.loss(tiny.step(model, SETS, start=start, extra_padding=5)).terms["retain"].detach()
    assert abs(float(plain - padded)) > 1e-3
