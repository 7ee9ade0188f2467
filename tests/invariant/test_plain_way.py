"""The plain implementation that the benchmarks compare with has equal losses and gradients on equal rows."""

import sys
from pathlib import Path

import pytest
import tiny
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from perf.model import METHODS, rmu
from perf.plain import Plain

from expunge.methods.base import Start
from expunge.methods.bases.preference import PREFERRED
from expunge.methods.rmu import RMU

SETS = {"forget": tiny.rows(5, seed=1), "retain": tiny.rows(5, seed=2), PREFERRED: tiny.rows(5, seed=3)}


@pytest.mark.parametrize("name", METHODS)
def test_equal_losses_and_gradients(name):
    """With weights that differ from the reference's: the fast path against full logits and separate passes."""
    method = rmu(1, 0) if name.startswith("rmu") else METHODS[name]
    sets = {set_name: SETS[set_name] for set_name in method.needs().sets}
    plain_model, model = tiny.model(seed=0), tiny.model(seed=0)
    chosen = set(method.trainable(model) or dict(model.named_parameters()))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in chosen)
    objective = method.objective(1, 1)
    objective.start(Start(model, ("",), 0, lambda set_name, index: tiny.batch(sets[set_name])))
    plain = Plain(
        plain_model,
        method,
        sets,
        lr=0.0,
        batch_size=5,
        target=objective.control_vectors[""] if isinstance(method, RMU) else None,
    )
    for key, parameter in model.named_parameters():
        if key in chosen:
            change = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))) * 0.02
            parameter.data.add_(change)
            plain_model.get_parameter(key).data.add_(change)
    fast = tiny.step(model, sets, start=plain.reference)
    fast.packed = True
    terms = objective(fast)
    slow = plain.loss_of(plain, {set_name: plain.collate(rows) for set_name, rows in sets.items()})
    assert float(terms.total.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    slow.backward()
    expected = {key: parameter.grad for key, parameter in plain_model.named_parameters() if key in chosen}
    tiny.assert_close(tiny.gradients(model, terms), expected, tolerance=3e-5)


def test_a_plain_step_changes_the_trained_weights_only():
    method = rmu(1, 0)
    sets = {name: SETS[name] for name in method.needs().sets}
    model = tiny.model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    Plain(model, method, sets, lr=1e-2, batch_size=4, target=torch.ones(24)).step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(method.trainable(model))
