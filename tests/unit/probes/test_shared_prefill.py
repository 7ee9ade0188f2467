"""Samples of one prompt share its forward pass, and are the samples that separate prompts would have."""

import pytest
import torch
import transformers
from generating_models import ENDS, build

from expunge.probes import generation
from expunge.probes.generation import generate

PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 9, 10, 11]]
SETTINGS = {"eos_ids": ENDS, "pad_id": 0, "temperature": 1.0}


def sample(model, prompts, seeds, batch_tokens=4096, new=9):
    return generate(
        model, prompts, max_new_tokens=[new] * len(prompts), seeds=seeds, batch_tokens=batch_tokens, **SETTINGS
    )


@pytest.mark.parametrize("kind", ["llama", "mistral", "bamba", "mamba"])
def test_shared_samples_are_those_of_one_prompt_at_a_time(kind):
    """Also for sliding windows, recurrent states, and models that cannot share."""
    model = build(kind)
    prompts, seeds = [PROMPTS[i % 2] for i in range(24)], list(range(24))
    together = sample(model, prompts, seeds)
    alone = [sample(model, [prompt], [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert together == alone
    assert len({tuple(answer) for answer in together}) > 10


def record_sizes(model):
    sizes = []
    model.model.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    return sizes


def test_one_prefill_per_prompt_in_every_batch_size():
    """24 samples of two prompts: two prefilled rows; a batch that holds 16 rows takes one prompt after the other."""
    prompts, seeds = [PROMPTS[i % 2] for i in range(24)], list(range(24))
    expected = sample(build("llama"), prompts, seeds)
    for batch_tokens, prefills in ((4096, [(2, 6)]), (16 * 15, [(1, 6), (1, 4)])):
        model = build("llama")
        sample(model, PROMPTS, [0, 1])  # the trial
        sizes = record_sizes(model)
        assert sample(model, prompts, seeds, batch_tokens) == expected
        assert [size for size in sizes if size[1] > 1] == prefills


def test_equal_beginnings_of_answers_are_computed_once():
    """Eight samples with one seed are one branch, whatever their budgets."""
    model = build("llama")
    sample(model, PROMPTS, [0, 1])
    (longest,) = sample(model, PROMPTS[:1], [3])
    sizes = record_sizes(model)
    budgets = [1, 9, 4, 9, 9, 0, 2, 9]
    answers = generate(model, PROMPTS[:1] * 8, max_new_tokens=budgets, seeds=[3] * 8, batch_tokens=4096, **SETTINGS)
    assert answers == [longest[:budget] for budget in budgets]
    assert {rows for rows, _ in sizes} == {1}


def test_a_cache_that_cannot_be_copied_is_found_out(capsys):
    """A model whose cache mixes up branches when one is repeated generates otherwise, and this is noted once."""
    generation._note_mode.cache_clear()
    model = build("llama")
    expected = sample(build("llama"), PROMPTS * 4, range(8))
    original = transformers.DynamicCache.reorder_cache

    def forgets(cache, branches):
        original(cache, branches)
        if len(branches) > len(set(branches.tolist())):
            for layer in cache.layers:
                layer.keys = torch.zeros_like(layer.keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.DynamicCache, "reorder_cache", forgets)
        assert sample(model, PROMPTS * 4, range(8)) == expected
        assert sample(model, PROMPTS * 4, range(8)) == expected
    assert capsys.readouterr().err.count("LlamaForCausalLM: answers are generated") == 1
