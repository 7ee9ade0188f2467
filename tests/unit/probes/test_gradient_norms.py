"""Gradient norms equal a plain loop, and computing them does not change the model."""

import pytest
import torch
import transformers

from expunge.data.templates import Encoded
from expunge.probes.gradients import gradient_norms

ITEMS = [Encoded(ids=(5, 6, 7, 8, 2), answer_start=2), Encoded(ids=(9, 4, 2), answer_start=1)]


def build_model(tied=False):
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [False, True])
def test_norms_equal_a_plain_loop(tied):
    """Backward pass of the model's built-in loss (prompt labels -100), then the mean of the weights' 2-norms."""
    model = build_model(tied).eval()
    expected = []
    for item in ITEMS:
        labels = [-100] * item.answer_start + list(item.ids[item.answer_start :])
        model.zero_grad()
        model(input_ids=torch.tensor([item.ids]), labels=torch.tensor([labels])).loss.backward()
        norms = [float((weight.grad**2).sum() ** 0.5) for weight in model.parameters()]
        expected.append(sum(norms) / len(norms))
    model.zero_grad()
    assert gradient_norms(model, ITEMS, pad_id=0) == pytest.approx(expected, rel=1e-5)


def test_the_model_is_not_changed():
    """Frozen weights count too, but stay frozen; accumulated gradients of a training are preserved."""
    model = build_model().train()
    first, *remaining = list(model.parameters())
    first.requires_grad_(False)
    for weight in remaining:
        weight.grad = torch.ones_like(weight)
    norms = gradient_norms(model, ITEMS, pad_id=0)
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()] == [False] + [True] * len(remaining)
    assert first.grad is None
    assert all((weight.grad == 1).all() for weight in remaining)
    with torch.no_grad():
        assert gradient_norms(build_model(), ITEMS, pad_id=0) == norms
