"""Labels of Who's Harry Potter: translation of a block, offset logits, and the label of each position."""

import numpy as np
import pytest
import torch

from expunge.data.blocks import Block
from expunge.data.templates import NO_LABEL
from expunge.methods.whp.labels import TokenSpans, Translation, generic_labels, offset_logits, translate
from expunge.modeling.load import train_tokenizer

TEXTS = ["Dorothy met the Tin Woodman.\nDorothy waved to Oz and Dorothy.", "Clara Nora Milton the old tailor saw Helen"]


@pytest.fixture(scope="module")
def tokenizer():
    """Tokenizer with few merges, so names have several tokens, the first one with the space before."""
    names = "a Dorothy Dora Dolly b Dorothy Clara Cloud Clear Tin Toil Oz Milton Nora Helen old tailor"
    return train_tokenizer([names] * 2, vocab_size=270, max_length=128)


@pytest.fixture(scope="module")
def spans(tokenizer):
    return TokenSpans(tokenizer)


def block_of(tokenizer, text):
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Block(text, tuple(encoding["input_ids"]), tuple(map(tuple, encoding["offset_mapping"])))


def rng(seed=0):
    return np.random.default_rng(seed)


ANCHORS = {"Dorothy": ["Clara", "Nora", "Helen"], "Tin Woodman": ["old tailor"], "Oz": ["Milton"]}


def test_both_spellings(tokenizer, spans):
    """A byte-level tokenizer puts the space into the word's first token; after a line break there is none."""
    assert tokenizer.decode(spans.after_space("Clara")) == " Clara"
    assert tokenizer.decode(spans.at_start("Clara")) == "Clara"
    assert spans.first_tokens("Clara") == {spans.after_space("Clara")[0], spans.at_start("Clara")[0]}


@pytest.mark.parametrize("seed", range(6))
def test_one_stand_in_per_anchor_inside_a_block(tokenizer, spans, seed):
    block = block_of(tokenizer, TEXTS[0])
    translation = translate(block, ANCHORS, spans, rng(seed))
    name = translation.used["Dorothy"]
    expected = TEXTS[0].replace("Dorothy", name).replace("Tin Woodman", "old tailor").replace("Oz", "Milton")
    assert tokenizer.decode(translation.ids) == expected
    assert translation.ids == tuple(tokenizer(expected, add_special_tokens=False)["input_ids"])


def test_seeds_choose_different_stand_ins_and_repeat_themselves(tokenizer, spans):
    block = block_of(tokenizer, TEXTS[0])
    names = [translate(block, ANCHORS, spans, rng(seed)).used["Dorothy"] for seed in range(20)]
    assert set(names) == {"Clara", "Nora", "Helen"}
    assert names == [translate(block, ANCHORS, spans, rng(seed)).used["Dorothy"] for seed in range(20)]


def test_two_anchors_get_two_stand_ins_if_there_are_two(tokenizer, spans):
    for seed in range(10):
        used = translate(
            block_of(tokenizer, "Dorothy saw Tip."), {"Dorothy": ["A", "B"], "Tip": ["A", "B"]}, spans, rng(seed)
        ).used
        assert sorted(used.values()) == ["A", "B"]


def test_source_of_each_position(tokenizer, spans):
    """a| Dor|ot|hy| |b| Dor|ot|hy| |c becomes a| Cl|ar|a| |b| Cl|ar|a| |c, position by position:

    plain tokens keep their own prediction (moved with the text), the insides of the anchor have none, its last token
    has the one after the stand-in, and b, the position before the repeated anchor, has none.
    """
    block = block_of(tokenizer, "a Dorothy b Dorothy c")
    assert tokenizer.convert_ids_to_tokens(block.ids)[1:4] == ["ĠDor", "ot", "hy"], "as this test supposes"
    translation = translate(block, {"Dorothy": ["Clara"]}, spans, rng())
    assert len(translation.ids) == 11
    assert translation.source.tolist() == [0, -1, -1, 3, 4, -1, -1, -1, 8, 9, 10]
    assert translation.forbidden == ((3, frozenset(spans.first_tokens("Clara"))),)


def test_stand_ins_of_another_length_move_what_follows(tokenizer, spans):
    """a| Dor|ot|hy| |b with Oz, one token or two, for Dorothy's three."""
    block = block_of(tokenizer, "a Dorothy b")
    translation = translate(block, {"Dorothy": ["Oz"]}, spans, rng())
    last = len(spans.after_space("Oz"))
    assert translation.source.tolist() == [0, -1, -1, last, last + 1, last + 2]


def test_an_anchor_at_the_start_of_a_block(tokenizer, spans):
    translation = translate(block_of(tokenizer, "Oz Oz"), {"Oz": ["Milton"]}, spans, rng())
    assert tokenizer.decode(translation.ids) == "Milton Milton"


def test_a_block_without_anchors_stays_as_it_is(tokenizer, spans):
    block = block_of(tokenizer, "nothing here")
    translation = translate(block, ANCHORS, spans, rng())
    assert translation.ids == block.ids
    assert translation.source.tolist() == list(range(len(block.ids)))
    assert translation.forbidden == ()
    assert translation.used == {}


def plain(length, forbidden=()):
    return Translation(tuple(range(length)), np.arange(length), tuple(forbidden), {})


def test_offset_by_hand():
    """generic (1, 4, 2), reinforced (3, 5, 0), alpha 5: rises (2, 1, 0), so (1-10, 4-5, 2-0) = (-9, -1, 2)."""
    result = offset_logits(torch.tensor([1.0, 4.0, 2.0]), torch.tensor([3.0, 5.0, 0.0]), 5.0)
    assert result.tolist() == [-9.0, -1.0, 2.0]


def test_alpha_zero_gives_the_argmax_on_the_translated_block():
    torch.manual_seed(0)
    generic, reinforced = torch.randn(12, 7), torch.randn(10, 7)
    source = np.array([0, 1, -1, -1, 4, 5, 6, 9, 10, 11])
    labels = generic_labels(generic, reinforced, Translation(tuple(range(12)), source, (), {}), alpha=0.0)
    expected = [NO_LABEL if position < 0 else int(generic[position].argmax()) for position in source]
    assert labels.tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_large_alpha_never_picks_a_token_that_the_reinforced_model_raised(seed):
    torch.manual_seed(seed)
    generic, reinforced = torch.randn(50, 9), torch.randn(50, 9)
    has_choice = (reinforced <= generic).any(-1)
    labels = generic_labels(generic, reinforced, plain(50), alpha=1e6)
    rose = (reinforced > generic).gather(1, labels[:, None])[:, 0]
    assert has_choice.sum() > 40
    assert not rose[has_choice].any()
    usual = generic_labels(generic, reinforced, plain(50), alpha=0.0)
    assert (reinforced > generic).gather(1, usual[:, None]).any(), "or the test would prove nothing"


def test_stand_ins_already_used_are_no_labels():
    """Token 2 is the most likely one everywhere, and the stand-in's first token from position 3 on; then token 1,
    the second best, takes its place. Its logit is the row's mean, (0 + 3 + 9 + 0) / 4 = 3 < 4."""
    generic = torch.tensor([[0.0, 4.0, 9.0, 0.0]]).repeat(6, 1)
    reinforced = generic - 1
    labels = generic_labels(generic, reinforced, plain(6, [(3, frozenset({2}))]), alpha=5.0)
    assert labels.tolist() == [2, 2, 2, 1, 1, 1]
    assert generic[5, 2] == 9, "the logits given are left as they are"
