"""The start model's hidden states, computed once: the same losses, gradients and trainings as with a frozen copy."""

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
    """Any rows in any order find their own hidden states; caps and scales of the output layer apply to them too."""
    start, model = tiny.model(architecture, seed=0), tiny.model(architecture, seed=1)
    needs = method.needs()
    rows = {name: np.array([5, 2, 9, 0]) for name in needs.sets}
    chosen = {name: [SETS[name][row] for row in rows[name]] for name in needs.sets}
    plain = method.loss(tiny.step(model, chosen, start=start))
    stored = StoredReference(start, {name: SETS[name] for name in needs.reference}, 0, tmp_path, max_tokens=30)
    base = tiny.step(model, chosen)
    made = Step(base.batches, base.counts, None, stored, packed=True, row_ids=rows)
    made.bind(model)
    fast = method.loss(made)
    for name, value in plain.terms.items():
        torch.testing.assert_close(fast.terms[name], value, rtol=1e-5, atol=0)
    tiny.assert_close(tiny.gradients(model, plain), tiny.gradients(model, fast))


@pytest.mark.parametrize("method", METHODS[1:3], ids=repr)
def test_trainings(tmp_path, method):
    """Two steps in four micro-batches with the copy, and with the stored states."""
    terms = []
    for kind in ("copy", "stored"):
        recorder = test_training.Recorder(method)
        made = test_training.job(tmp_path / kind, method, recorder, plan={"device_batch_size": 2})
        if kind == "stored":
            needed = {name: SETS[name] for name in method.needs().reference}
            object.__setattr__(made, "reference", StoredReference(tiny.model(seed=1), needed, 0, tmp_path))
        train(made)
        terms.append((tiny.log_lines(tmp_path / kind / "train.jsonl"), recorder.gradients))
    for one, other in zip(*(each for _, each in terms), strict=True):
        tiny.assert_close(one, other, tolerance=2e-5)
    assert [line["loss"] for line in terms[0][0]] == pytest.approx([line["loss"] for line in terms[1][0]], rel=1e-5)


def test_it_stays_at_the_start_and_needs_no_model(tmp_path):
    """Neither the hidden states nor the output layer move with the model, and the model is as it was."""
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


def test_only_the_rows_that_a_training_comes_to_are_run(tmp_path, monkeypatch):
    """Those of two steps, each once, whatever else is in the sets; nothing of the file has a name."""
    seen = []
    plain = reference.decode
    monkeypatch.setattr(
        reference, "decode", lambda model, batch, *rest: seen.append(batch.num_rows) or plain(model, batch, *rest)
    )
    sets = {"forget": SETS["forget"], "retain": SETS["retain"] * 50}
    plan = tiny.plan(sets, steps=2, batch_size=4)
    model = tiny.model()
    made = make_reference(model, ("retain",), sets, 0, folder=tmp_path, visited_rows=plan.visits)
    assert sum(seen) == len(plan.visits()["retain"]) == 8
    assert not list(tmp_path.iterdir())
    rows = np.asarray(plan.rows_of(1)["retain"])
    batch = tiny.batch([sets["retain"][row] for row in rows])
    expected = FrozenReference(model).answers("retain", rows, batch, False)
    torch.testing.assert_close(made.answers("retain", rows, batch, False), expected)
    with pytest.raises(KeyError):
        made.answers(
            "retain", np.asarray([next(row for row in range(200) if row not in plan.visits()["retain"])]), batch, False
        )


def test_a_method_that_asked_for_too_little_is_told_so(tmp_path):
    """KL at every position, from a reference of which only answer tokens were asked for."""
    made = tiny.step(tiny.model(), {"retain": SETS["retain"][:2]})
    stored = StoredReference(tiny.model(), {"retain": SETS["retain"]}, 0, tmp_path)
    step = Step(made.batches, made.counts, None, stored, row_ids={"retain": np.arange(2)})
    step.bind(tiny.model())
    with pytest.raises(IncompatibleError, match=r"beyond answer tokens.*reference=True"):
        step.kl("retain", "all")


def test_the_form_is_chosen(tmp_path):
    """States in a file where they are enough, else the copy, or no adapter."""
    model = tiny.model()

    def kind(built, needed):
        chosen = {name: range(len(rows)) for name, rows in SETS.items()}
        made = make_reference(built, needed, SETS, 0, folder=tmp_path, visited_rows=lambda: chosen)
        return None if made is None else type(made)

    assert kind(model, False) is None
    assert kind(model, ("retain",)) is StoredReference
    assert kind(model, True) is FrozenReference
    assert kind(add_lora(copy.deepcopy(model), Lora(rank=2), seed=0), ("retain",)) is FrozenReference


def test_states_that_do_not_fit_on_the_disk(tmp_path, monkeypatch):
    """4 bytes x width x answer tokens, of each of two processes."""
    size = 4 * 24 * sum(row.num_answer for row in SETS["retain"])

    def make(free: int) -> None:
        monkeypatch.setattr(reference.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        chosen = {"retain": range(len(SETS["retain"]))}
        make_reference(tiny.model(), ("retain",), SETS, 0, folder=tmp_path, visited_rows=lambda: chosen)

    monkeypatch.setattr(reference, "world_size", lambda: 2)
    make(2 * size)
    with pytest.raises(UserError, match=r"hidden states take .* GiB per process .* Free some space"):
        make(2 * size - 1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_copy_in_half_precision_is_what_autocast_makes_of_it(architecture):
    """Its matrices take half the memory, and every number is that of a float32 copy run under autocast."""
    model, batch = tiny.model(architecture), tiny.batch(SETS["retain"][:4])
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    copied, halved = FrozenReference(model), FrozenReference(model, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = copied.head(copied.answers("", None, batch, False))
    found = halved.head(halved.answers("", None, batch, False))
    assert torch.equal(found, expected)
    assert not torch.equal(found, copied.head(copied.answers("", None, batch, False)))
    sizes = {name: weight.element_size() for name, weight in halved._copy.named_parameters()}
    names = ("mlp.down_proj.weight", "embed_tokens.weight", "norm.weight", "lm_head.weight")
    if architecture == "llama":
        assert [next(sizes[name] for name in sizes if name.endswith(end)) for end in names] == [2, 4, 4, 2]


def test_a_copy_in_float32_stays_so_under_autocast():
    model, batch = tiny.model(), tiny.batch(SETS["retain"][:4])
    copied, exact = FrozenReference(model), FrozenReference(model, torch.float32, torch.device("cpu"))
    expected = copied.head(copied.answers("", None, batch, False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact.head(exact.answers("", None, batch, False)), expected)


def test_a_matrix_that_is_the_embedding_too_is_not_halved():
    model = tiny.model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    halved = FrozenReference(model, torch.bfloat16)._copy
    assert halved.lm_head.weight.dtype == torch.float32
    assert halved.transformer.h[0].mlp.c_fc.weight.dtype == torch.bfloat16


def test_methods_that_look_at_padding_ask_for_the_whole_reference():
    assert GradDiff(retain="kl").needs().reference == ("retain",)
    assert GradDiff(retain="kl", kl_positions="all").needs().reference is True
    assert UNDIAL().needs().reference == ("forget",)
    assert UNDIAL(retain_weight=1.0, retain="kl").needs().reference == ("forget", "retain")
    assert UNDIAL(positions="all").needs().reference is True
    assert UNDIAL(retain_weight=1.0, retain="kl", kl_positions="all").needs().reference is True
