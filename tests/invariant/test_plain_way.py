"""What the benchmarks compare with is the same training: equal losses and gradients on equal rows."""

import sys
from pathlib import Path

import pytest
import tiny
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from perf.model import METHODS, _rmu
from perf.plain import Plain

from expunge.methods.base import Start
from expunge.methods.bases.preference import PREFERRED
from expunge.methods.rmu import RMU

SETS = {"forget": tiny.rows(5, seed=1), "retain": tiny.rows(5, seed=2), PREFERRED: tiny.rows(5, seed=3)}


@pytest.mark.parametrize("name", METHODS)
def test_equal_losses_and_gradients(name):
    """After both models have moved away from their start: a fast path against full logits and separate passes."""
    method = _rmu(1, 0) if name.startswith("rmu") else METHODS[name]
    sets = {each: SETS[each] for each in method.needs().sets}
    start, model = tiny.model(seed=0), tiny.model(seed=0)
    chosen = set(method.trainable(model) or dict(model.named_parameters()))
    for each, parameter in model.named_parameters():
        parameter.requires_grad_(each in chosen)
    objective = method.objective(1, 1)
    objective.start(Start(model, ("",), 0, lambda each, index: tiny.batch(sets[each])))
    plain = Plain(
        start,
        method,
        sets,
        lr=0.0,
        batch_size=5,
        target=objective.control_vectors[""] if isinstance(method, RMU) else None,
    )
    for each, parameter in model.named_parameters():
        if each in chosen:
            moved = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(each))) * 0.02
            parameter.data.add_(moved)
            start.get_parameter(each).data.add_(moved)
    fast = tiny.step(model, sets, start=plain.reference)
    fast.packed = True
    terms = objective(fast)
    slow = plain.loss_of(plain, {each: plain.collate(items) for each, items in sets.items()})
    assert float(terms.total.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    slow.backward()
    expected = {each: parameter.grad for each, parameter in start.named_parameters() if each in chosen}
    tiny.assert_close(tiny.gradients(model, terms), expected, tolerance=3e-5)


def test_a_plain_step_changes_what_is_trained():
    method = _rmu(1, 0)
    sets = {name: SETS[name] for name in method.needs().sets}
    model = tiny.model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    Plain(model, method, sets, lr=1e-2, batch_size=4, target=torch.ones(24)).step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(method.trainable(model))
