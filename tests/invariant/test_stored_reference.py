"""Stored hidden states of the reference give the same losses, gradients and trainings as a frozen copy."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import test_training
import tiny
import torch

from expunge.config.recipe import Lora
from expunge.errors import IncompatibleError, UserError
from expunge.methods.graddiff import GradDiff
from expunge.methods.npo import NPO
from expunge.methods.undial import UNDIAL
from expunge.modeling import reference
from expunge.modeling.adapters import add_lora
from expunge.modeling.reference import FrozenReference, StoredReference, make_reference
from expunge.modeling.step import Step
from expunge.training.trainer import train

SETS = test_training.SETS
METHODS = [GradDiff(retain="kl"), NPO(retain="kl"), UNDIAL(), UNDIAL(retain_weight=1.0, retain="kl")]


@pytest.mark.parametrize("method", METHODS[:1] + METHODS[2:], ids=repr)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "granite"])
def test_losses_and_gradients(tmp_path, architecture, method):
    """Rows are found in any order, and caps and scales of the output layer are applied."""
    start, model = tiny.model(architecture, seed=0), tiny.model(architecture, seed=1)
    needs = method.needs()
    rows = {name: np.array([5, 2, 9, 0]) for name in needs.sets}
    selected = {name: [SETS[name][row] for row in rows[name]] for name in needs.sets}
    expected = method.loss(tiny.step(model, selected, start=start))
    stored = StoredReference(start, {name: SETS[name] for name in needs.reference}, 0, tmp_path, max_tokens=30)
    padded = tiny.step(model, selected)
    step = Step(padded.batches, padded.counts, None, stored, packed=True, row_ids=rows)
    step.bind(model)
    result = method.loss(step)
    for name, value in expected.terms.items():
        torch.testing.assert_close(result.terms[name], value, rtol=1e-5, atol=0)
    tiny.assert_close(tiny.gradients(model, expected), tiny.gradients(model, result))


@pytest.mark.parametrize("method", METHODS[1:3], ids=repr)
def test_trainings(tmp_path, method):
    """Two steps of four micro-batches, with a frozen copy and with stored states."""
    terms = []
    for kind in ("copy", "stored"):
        recorder = test_training.Recorder(method)
        job = test_training.job(tmp_path / kind, method, recorder, plan={"device_batch_size": 2})
        if kind == "stored":
            needed = {name: SETS[name] for name in method.needs().reference}
            object.__setattr__(job, "reference", StoredReference(tiny.model(seed=1), needed, 0, tmp_path))
        train(job)
        terms.append((tiny.log_lines(tmp_path / kind / "train.jsonl"), recorder.gradients))
    for one, other in zip(*(gradients for _, gradients in terms), strict=True):
        tiny.assert_close(one, other, tolerance=2e-5)
    assert [line["loss"] for line in terms[0][0]] == pytest.approx([line["loss"] for line in terms[1][0]], rel=1e-5)


def test_training_does_not_change_the_stored_reference(tmp_path):
    """The hidden states and the output layer are independent of the model, whose mode is restored."""
    model = tiny.model().train()
    stored = StoredReference(model, {"forget": SETS["forget"]}, 0, tmp_path)
    assert model.training
    batch = tiny.batch(SETS["forget"][:3])
    before = stored.head(stored.answers("forget", np.arange(3), batch, False)).clone()
    expected = FrozenReference(tiny.model()).head(FrozenReference(tiny.model()).answers("forget", None, batch, False))
    torch.testing.assert_close(before, expected, rtol=0, atol=2e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(stored.head(stored.answers("forget", np.arange(3), batch, False)), before)


def test_only_rows_that_training_visits_are_stored(tmp_path, monkeypatch):
    """The rows of two steps are run once each, and the file has no name in the folder."""
    num_rows = []
    decode = reference.decode
    monkeypatch.setattr(
        reference, "decode", lambda model, batch, *rest: num_rows.append(batch.num_rows) or decode(model, batch, *rest)
    )
    sets = {"forget": SETS["forget"], "retain": SETS["retain"] * 50}
    plan = tiny.plan(sets, steps=2, batch_size=4)
    model = tiny.model()
    stored = make_reference(model, ("retain",), sets, 0, folder=tmp_path, visited_rows=plan.visits)
    assert sum(num_rows) == len(plan.visits()["retain"]) == 8
    assert not list(tmp_path.iterdir())
    rows = np.asarray(plan.rows_of(1)["retain"])
    batch = tiny.batch([sets["retain"][row] for row in rows])
    expected = FrozenReference(model).answers("retain", rows, batch, False)
    torch.testing.assert_close(stored.answers("retain", rows, batch, False), expected)
    unvisited = next(row for row in range(200) if row not in plan.visits()["retain"])
    with pytest.raises(KeyError):
        stored.answers("retain", np.asarray([unvisited]), batch, False)


def test_positions_beyond_answers_are_not_stored(tmp_path):
    """KL at all positions needs more than the answer tokens that are stored."""
    padded = tiny.step(tiny.model(), {"retain": SETS["retain"][:2]})
    stored = StoredReference(tiny.model(), {"retain": SETS["retain"]}, 0, tmp_path)
    step = Step(padded.batches, padded.counts, None, stored, row_ids={"retain": np.arange(2)})
    step.bind(tiny.model())
    with pytest.raises(IncompatibleError, match=r"beyond answer tokens.*reference=True"):
        step.kl("retain", "all")


def test_form_of_the_reference(tmp_path):
    """Stored states if they suffice, unless an adapter can be disabled; otherwise a copy."""
    model = tiny.model()

    def kind(built, needed):
        visited = {name: range(len(rows)) for name, rows in SETS.items()}
        result = make_reference(built, needed, SETS, 0, folder=tmp_path, visited_rows=lambda: visited)
        return None if result is None else type(result)

    assert kind(model, False) is None
    assert kind(model, ("retain",)) is StoredReference
    assert kind(model, True) is FrozenReference
    assert kind(add_lora(copy.deepcopy(model), Lora(rank=2), seed=0), ("retain",)) is FrozenReference


def test_states_that_do_not_fit_on_the_disk(tmp_path, monkeypatch):
    """4 bytes x width x answer tokens, in each of two processes."""
    size = 4 * 24 * sum(row.num_answer for row in SETS["retain"])

    def make(free: int) -> None:
        monkeypatch.setattr(reference.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        visited = {"retain": range(len(SETS["retain"]))}
        make_reference(tiny.model(), ("retain",), SETS, 0, folder=tmp_path, visited_rows=lambda: visited)

    monkeypatch.setattr(reference, "world_size", lambda: 2)
    make(2 * size)
    with pytest.raises(UserError, match=r"hidden states take .* GiB per process .* Free some space"):
        make(2 * size - 1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_copy_in_half_precision_equals_autocast(architecture):
    """Its matrices take half the memory, and its outputs equal those of a float32 copy under autocast."""
    model, batch = tiny.model(architecture), tiny.batch(SETS["retain"][:4])
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    copied, halved = FrozenReference(model), FrozenReference(model, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = copied.head(copied.answers("", None, batch, False))
    result = halved.head(halved.answers("", None, batch, False))
    assert torch.equal(result, expected)
    assert not torch.equal(result, copied.head(copied.answers("", None, batch, False)))
    sizes = {name: weight.element_size() for name, weight in halved._copy.named_parameters()}
    names = ("mlp.down_proj.weight", "embed_tokens.weight", "norm.weight", "lm_head.weight")
    if architecture == "llama":
        assert [next(sizes[name] for name in sizes if name.endswith(end)) for end in names] == [2, 4, 4, 2]


def test_a_copy_in_float32_ignores_autocast():
    model, batch = tiny.model(), tiny.batch(SETS["retain"][:4])
    copied, exact = FrozenReference(model), FrozenReference(model, torch.float32, torch.device("cpu"))
    expected = copied.head(copied.answers("", None, batch, False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact.head(exact.answers("", None, batch, False)), expected)


def test_a_tied_output_layer_is_not_cast():
    model = tiny.model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    halved = FrozenReference(model, torch.bfloat16)._copy
    assert halved.lm_head.weight.dtype == torch.float32
    assert halved.transformer.h[0].mlp.c_fc.weight.dtype == torch.bfloat16


def test_needs_of_methods():
    assert GradDiff(retain="kl").needs().reference == ("retain",)
    assert GradDiff(retain="kl", kl_positions="all").needs().reference is True
    assert UNDIAL().needs().reference == ("forget",)
    assert UNDIAL(retain_weight=1.0, retain="kl").needs().reference == ("forget", "retain")
    assert UNDIAL(positions="all").needs().reference is True
    assert UNDIAL(retain_weight=1.0, retain="kl", kl_positions="all").needs().reference is True
