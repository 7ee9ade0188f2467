"""Optimisations do not change results: vocabulary chunks, one joint forward pass, frozen references."""

import copy

import pytest
import tiny
import torch

from expunge.config.recipe import Lora
from expunge.methods.npo import NPO
from expunge.modeling import logprobs
from expunge.modeling.adapters import add_lora
from expunge.modeling.batch import join
from expunge.modeling.reference import FrozenReference, batch_token_logp, reference_logp
from expunge.modeling.step import LossTerms

SETS = {"forget": tiny.rows(5, seed=1), "retain": tiny.rows(4, seed=2, longest=9)}


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunked_equals_unchunked(monkeypatch, chunk):
    """Log-probabilities, KL and gradients with 1 or 3 positions per chunk; the output layer never gets more."""
    start, model = tiny.model(seed=0), tiny.model(seed=1)

    def loss() -> LossTerms:
        step = tiny.step(model, SETS, start=start)
        return LossTerms({"forget": step.nll("forget"), "retain": step.kl("retain")})

    unchunked = loss()
    expected = tiny.gradients(model, unchunked)
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk * tiny.VOCAB)
    sizes: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(len(out)))
    chunked = loss()
    for name in unchunked.terms:
        torch.testing.assert_close(chunked.terms[name], unchunked.terms[name], rtol=1e-6, atol=0)
    tiny.assert_close(tiny.gradients(model, chunked), expected)
    assert max(sizes) == chunk


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_joint_forward_equals_separate_forwards(architecture):
    """Values and gradients of two sets of different width, in one forward pass and in one pass each."""
    model = tiny.model(architecture)
    joint_step = tiny.step(model, SETS)
    separate_steps = {name: tiny.step(model, {name: items}) for name, items in SETS.items()}
    for name in SETS:
        expected = separate_steps[name].token_logp(name)
        torch.testing.assert_close(joint_step.token_logp(name), expected, rtol=0, atol=2e-5)
    joint = LossTerms({name: joint_step.nll(name) for name in SETS})
    separate = LossTerms({name: separate_steps[name].nll(name) for name in SETS})
    tiny.assert_close(tiny.gradients(model, joint), tiny.gradients(model, separate))


def test_joined_batches_equal_one_batch_of_all_rows():
    model = tiny.model()
    joined = join([tiny.batch(items) for items in SETS.values()])
    whole = tiny.batch([row for items in SETS.values() for row in items])
    assert torch.equal(joined.rows, whole.rows)
    assert torch.equal(joined.num_answer, whole.num_answer)
    torch.testing.assert_close(batch_token_logp(model, joined), batch_token_logp(model, whole))


def test_a_step_runs_one_forward_pass():
    model = tiny.model()
    passes: list[int] = []
    model.base_model.register_forward_hook(lambda *_: passes.append(1))
    step = tiny.step(model, SETS)
    for name in SETS:
        step.logp(name), step.mean_logp(name), step.nll(name), step.hidden(name)
    assert len(passes) == 1


def test_reference_logp_does_not_depend_on_batching():
    model, items = tiny.model(), SETS["forget"] + SETS["retain"]
    expected = reference_logp(model, items, 0)
    for max_tokens in (1, 20, 40):
        assert reference_logp(model, items, 0, max_tokens) == pytest.approx(expected, abs=2e-5)


def test_a_fresh_adapter_does_not_change_the_model():
    plain = tiny.model()
    adapted = add_lora(copy.deepcopy(plain), Lora(rank=2), seed=0)
    one, other = tiny.step(plain, SETS), tiny.step(adapted, SETS)
    assert torch.equal(one.token_logp("forget"), other.token_logp("forget"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("training", [True, False])
def test_adapter_off_equals_a_frozen_copy(architecture, training):
    """With a trained adapter, the reference still equals the model before training, bit for bit.

    It does in training mode too, although the adapter and GPT-2 have dropout.
    """
    plain = tiny.model(architecture)
    frozen = copy.deepcopy(plain)
    adapted = add_lora(plain, Lora(rank=2, dropout=0.5), seed=0)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    adapted.train(training)
    batch = tiny.batch(SETS["retain"])
    off, copied = FrozenReference(adapted), FrozenReference(frozen)
    assert torch.equal(off.hidden(batch), copied.hidden(batch))
    assert adapted.training == training
    assert (reference_logp(adapted, SETS["forget"], 0) == reference_logp(frozen, SETS["forget"], 0)).all()
    moved = tiny.step(adapted.eval(), SETS).logp("forget").detach()
    assert float((moved - torch.from_numpy(reference_logp(frozen, SETS["forget"], 0))).abs().max()) > 0.1


def test_training_does_not_change_the_copy():
    model = tiny.model()
    reference, batch = FrozenReference(model), tiny.batch(SETS["retain"])
    before = reference.hidden(batch)
    NPO().loss(tiny.step(model, SETS, start=tiny.model())).total.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(reference.hidden(batch), before)
