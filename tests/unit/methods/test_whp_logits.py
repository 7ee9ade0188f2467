"""The variant without training: generation with an offset equals the formula applied step by step."""

import pytest
import torch
import transformers

from expunge.methods._whp_logits import OffsetProcessor


def tiny(seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(8)
    return model


@pytest.fixture(scope="module")
def models():
    return tiny(0), tiny(1)


def by_hand(base, reinforced, ids, alpha, steps):
    for _ in range(steps):
        with torch.no_grad():
            v_base, v_reinforced = base(ids).logits[:, -1], reinforced(ids).logits[:, -1]
        v = v_base - alpha * torch.where(v_reinforced > v_base, v_reinforced - v_base, 0.0)
        ids = torch.cat([ids, v.argmax(-1, keepdim=True)], dim=1)
    return ids


def write(base, ids, processor, mask=None, **options):
    return base.generate(
        ids,
        attention_mask=torch.ones_like(ids) if mask is None else mask,
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        logits_processor=transformers.LogitsProcessorList([processor]),
        **options,
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_generation_equals_the_formula(models, alpha):
    base, reinforced = models
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 1]])
    assert (
        write(base, ids, OffsetProcessor(reinforced, alpha)).tolist()
        == by_hand(base, reinforced, ids, alpha, 6).tolist()
    )


def test_the_offset_changes_what_is_written(models):
    base, reinforced = models
    ids = torch.tensor([[3, 4, 5, 6]])
    written = [write(base, ids, OffsetProcessor(reinforced, alpha)).tolist() for alpha in (0.0, 5.0)]
    assert written[0] != written[1]


def test_a_processor_can_be_used_again(models):
    base, reinforced = models
    processor = OffsetProcessor(reinforced, 2.0)
    for start in (3, 9):
        ids = torch.tensor([[start, 4, 5]])
        assert write(base, ids, processor).tolist() == by_hand(base, reinforced, ids, 2.0, 6).tolist()


def test_prompts_padded_on_the_left(models):
    base, reinforced = models
    short = torch.tensor([[4, 5, 6]])
    ids = torch.tensor([[0, 0, 4, 5, 6], [7, 8, 9, 1, 2]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    written = write(base, ids, OffsetProcessor(reinforced, 2.0, attention_mask=mask), mask=mask)
    assert written[0, 2:].tolist() == by_hand(base, reinforced, short, 2.0, 6)[0].tolist()


def test_beams_that_change_places(models):
    """Two beams need the whole text again whenever they are reordered: with and without memory must agree."""
    base, reinforced = models

    class Forgetful(OffsetProcessor):
        def __call__(self, input_ids, scores):
            self._seen = None
            return super().__call__(input_ids, scores)

    ids = torch.tensor([[3, 4, 5, 6]])
    assert (
        write(base, ids, OffsetProcessor(reinforced, 2.0), num_beams=3).tolist()
        == write(base, ids, Forgetful(reinforced, 2.0), num_beams=3).tolist()
    )
