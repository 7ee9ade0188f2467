"""Blocks of text: equal lengths, start tokens, and offsets of the tokens."""

import pytest

from expunge.config.recipe import Prompt
from expunge.data.blocks import cut_blocks
from expunge.data.sets import Row
from expunge.data.templates import Template
from expunge.errors import DataError
from expunge.modeling.load import train_tokenizer

TEXTS = ["The quick brown fox saw the lazy dog.", "A dog, a fox and a naïve – if quick – hen met.", "No."]


@pytest.fixture(scope="module")
def template():
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=320, max_length=64)
    prompt = Prompt(style="plain", question="{question}", answer="{answer}")
    return Template(tokenizer, prompt, max_length=16)


def rows(texts):
    return [Row(id=f"r/{i}", question="", answer=text, group=str(i)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("context", [8, 9, 16])
def test_blocks_contain_all_tokens_in_order(template, context):
    """Without their start tokens, blocks contain the tokens of the texts, except for an incomplete last block."""
    tokenizer = template.tokenizer
    blocks = cut_blocks(rows(TEXTS), template, context)
    start = tokenizer.bos_token_id
    stream = [i for text in TEXTS for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    flat = [i for block in blocks for i in block.ids if i != start]
    assert flat == stream[: len(flat)]
    assert len(stream) - len(flat) < context
    assert {len(block.ids) for block in blocks} == {context}
    assert all(block.ids[0] == start and start != block.ids[1] for block in blocks)
    assert all(len(block.offsets) == context for block in blocks)


def test_offsets_match_the_tokens(template):
    for block in cut_blocks(rows(TEXTS), template, 9):
        for token, (first, last) in list(zip(block.ids, block.offsets, strict=True))[1:]:
            piece = template.tokenizer.decode([token])
            if "�" not in piece:
                assert block.text[first:last] == piece


def test_short_text_gives_one_short_block(template):
    (block,) = cut_blocks(rows(["No."]), template, 16)
    assert template.tokenizer.decode(block.ids) == "<s>No."
    assert block.encoded.answer_start == 1


def test_questions_and_answers_are_formatted_by_the_template(template):
    row = Row(id="q/0", question="The fox?", answer=" A dog.", group="0")
    (block,) = cut_blocks([row], template, 16)
    assert template.tokenizer.decode(block.ids) == "<s>The fox? A dog.</s>"


def test_no_text_raises(template):
    with pytest.raises(DataError, match="fewer than two tokens"):
        cut_blocks([], template, 16)
