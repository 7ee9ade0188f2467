"""The variant without training: generation with an offset equals the formula applied step by step."""

import pytest
import torch
import transformers

from expunge.methods.whp.logits import OffsetProcessor
from expunge.methods.whp.method import offset_processor


def tiny(seed):
    """GPT-2, whose learnt positions make every wrong position visible."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=23,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        eos_token_id=None,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)
    return model


@pytest.fixture(scope="module")
def models():
    """The reinforced model doubles all logits of another one that is near: it raises what is likely already."""
    base, reinforced = tiny(0), tiny(0)
    reinforced.lm_head.weight.data.mul_(2)
    reinforced.transformer.wte.weight.data.add_(torch.randn(23, 16) / 10)
    return base, reinforced


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
    written = write(base, ids, offset_processor(reinforced, alpha))
    assert written.tolist() == by_hand(base, reinforced, ids, alpha, 6).tolist()


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
    """Reordered beams have another past, so that the whole text must be read again: with and without memory agree."""
    base, reinforced = models
    reordered = []

    class Forgetful(OffsetProcessor):
        def __call__(self, input_ids, scores):
            reordered.append(self._seen is not None and not torch.equal(input_ids[:, :-1], self._seen))
            self._cache, old = None, self._seen
            self._seen = None
            result = super().__call__(input_ids, scores)
            assert old is None or old.shape[1] + 1 == input_ids.shape[1]
            return result

    ids = torch.tensor([[3, 4, 5, 6], [9, 1, 12, 2]])
    expected = write(base, ids, Forgetful(reinforced, 1.0), num_beams=4)
    assert any(reordered[1:]), "or the test would prove nothing"
    assert write(base, ids, OffsetProcessor(reinforced, 1.0), num_beams=4).tolist() == expected.tolist()
