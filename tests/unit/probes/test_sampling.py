"""Sampling: distribution, one random stream per prompt, and greedy decoding at temperature 0."""

import numpy as np
import pytest
import scipy.stats
import torch
import transformers

from expunge.probes.generation import TokenSampler, generate

VOCAB, EOS = 13, 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return transformers.LlamaForCausalLM(config).eval()


def run(model, prompts, new=8, batch_tokens=10_000, **sampling):
    return generate(
        model,
        prompts,
        max_new_tokens=[new] * len(prompts),
        eos_ids=[EOS],
        pad_id=0,
        batch_tokens=batch_tokens,
        **sampling,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax_at_the_temperature(model, temperature):
    """Chi-square test of 3,000 first tokens of one prompt; an empty answer means the end-of-sequence token."""
    answers = run(model, [[1, 5, 7]] * 3000, new=1, temperature=temperature, seeds=range(3000))
    counts = np.bincount([answer[0] if answer else EOS for answer in answers], minlength=VOCAB)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[1, 5, 7]])).logits[0, -1].double() / temperature, -1).numpy()
    assert scipy.stats.chisquare(counts, 3000 * expected / expected.sum()).pvalue > 0.001


def test_a_sample_depends_on_the_prompt_and_its_seed_alone(model):
    prompts = [[1, 5], [1, 7, 7, 9], [1, 3, 4], [1, 5]]
    batched = run(model, prompts, temperature=1.0, seeds=[10, 11, 12, 13])
    for i, prompt in enumerate(prompts):
        assert run(model, [prompt], temperature=1.0, seeds=[10 + i]) == [batched[i]]
    assert run(model, prompts, batch_tokens=1, temperature=1.0, seeds=[10, 11, 12, 13]) == batched
    assert run(model, prompts[::-1], temperature=1.0, seeds=[13, 12, 11, 10]) == batched[::-1]
    assert batched[0] != batched[3]  # the same prompt with another seed


def test_an_impossible_token_is_never_sampled():
    """The uniform number 0 selects the first token with a probability above 0."""

    class Zero:
        def random(self):
            return 0.0

    sampler = TokenSampler(1.0, [0])
    sampler._streams = [Zero()]
    assert sampler(torch.tensor([[-torch.inf, 0.0, 0.0]]), [0]).tolist() == [1]


def test_temperature_zero_selects_the_most_likely_token(model):
    ids = [1, 5, 7]
    expected = []
    with torch.no_grad():
        while len(expected) < 8:
            token = int(model(torch.tensor([ids + expected])).logits[0, -1].argmax())
            if token == EOS:
                break
            expected.append(token)
    assert run(model, [ids]) == [expected]


def test_a_small_temperature_equals_greedy_decoding(model):
    assert run(model, [[1, 5, 7]], temperature=1e-4, seeds=[0]) == run(model, [[1, 5, 7]])


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 1.0, "seeds": [1, 2]}, {"temperature": -1}])
def test_a_missing_seed_or_a_negative_temperature_is_rejected(model, sampling):
    with pytest.raises(ValueError, match="temperature"):
        run(model, [[1, 5, 7]], **sampling)
