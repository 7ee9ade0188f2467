"""Who's Harry Potter's pieces on real books: four Oz books against four others.

What the method does to a model that has learnt them takes minutes and is the recipe `whp-books`; here are the parts
that only real text can try: mined anchors, translation of every block, passages, and labels of a small model.
"""

import numpy as np
import pytest
import torch
import transformers

from expunge.config.recipe import Prompt
from expunge.data.anchors.dictionary import find_anchors
from expunge.data.anchors.mining import mine_anchors, stand_in_lists
from expunge.data.anchors.passages import anchor_passages
from expunge.data.blocks import cut_blocks
from expunge.data.sets import Row
from expunge.data.templates import NO_LABEL, Template
from expunge.methods.whp.labels import TokenSpans, label_blocks, translate
from expunge.modeling.load import train_tokenizer

CONTEXT = 128


@pytest.fixture(scope="module")
def books(shared):
    folder = shared / "data/books"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*_pg*.txt"))}
    forget = [text for name, text in texts.items() if name.startswith("oz")]
    assert len(forget) == 4
    return forget, [text for name, text in texts.items() if not name.startswith("oz")]


@pytest.fixture(scope="module")
def anchors(books):
    return mine_anchors(*books)


@pytest.fixture(scope="module")
def template(books):
    tokenizer = train_tokenizer([text[:100_000] for part in books for text in part], 2048, CONTEXT)
    return Template(tokenizer, Prompt(style="plain", question="{question}", answer="{answer}"), max_length=CONTEXT)


@pytest.fixture(scope="module")
def blocks(books, template):
    return cut_blocks([Row(f"b/{i}", "", text, "b") for i, text in enumerate(books[0])], template, CONTEXT)


def test_anchors_are_the_names_of_oz(anchors):
    names = {"Dorothy", "Scarecrow", "Tin Woodman", "Oz", "Ozma", "Billina", "Glinda", "Mombi", "Tip", "Toto", "Kansas"}
    assert names <= set(anchors)
    assert not {"Alice", "Holmes", "Wendy", "London", "I", "Mr", "The", "But"} & set(anchors)
    kinds = stand_in_lists()
    for name, kind in [("Dorothy", "woman"), ("Tip", "man"), ("Kansas", "place"), ("Scarecrow", "figure")]:
        assert set(anchors[name]) <= set(kinds[kind]), name


def test_no_anchor_is_left_in_any_translated_block(anchors, blocks, template):
    """Every block of four books; stand-ins are no anchors themselves, and the rest of the text stays as it was."""
    spans = TokenSpans(template.tokenizer)
    replaced = changed = 0
    for number, block in enumerate(blocks):
        translation = translate(block, anchors, spans, np.random.default_rng(number))
        text = template.tokenizer.decode(translation.ids)
        assert not [found.key for found in find_anchors(text, anchors) if found.key not in translation.used.values()]
        kept = translation.source >= 0
        assert (np.diff(translation.source[kept]) > 0).all()
        replaced += len(translation.used)
        changed += bool(translation.used)
    assert changed > 0.9 * len(blocks)
    assert replaced > 2 * len(blocks)


def test_labels_on_real_text(anchors, blocks, template):
    """A small untrained model and a copy that is pushed towards 'Dorothy': its labels hardly say so, whatever the base
    does; labels are missing just where the translation says, and what the base says is what it says alone."""
    tokenizer = template.tokenizer
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    base = transformers.AutoModelForCausalLM.from_config(config).eval()
    reinforced = transformers.AutoModelForCausalLM.from_config(config).eval()
    reinforced.load_state_dict(base.state_dict())
    dorothy = tokenizer.convert_tokens_to_ids("ĠDorothy")
    direction = base.model(torch.tensor([blocks[0].ids])).last_hidden_state[0].mean(0).detach()
    for model, push in ((base, 1.0), (reinforced, 3.0)):
        model.lm_head.weight.data[dorothy] += push * direction / direction.norm()
    some = blocks[:6]
    spans = TokenSpans(tokenizer)
    translations = [translate(block, anchors, spans, np.random.default_rng(i)) for i, block in enumerate(some)]
    plain = label_blocks(base, reinforced, some, translations, alpha=0.0)
    offset = label_blocks(base, reinforced, some, translations, alpha=5.0)
    before, after = (sum((each.labels == dorothy).sum() for each in labels) for labels in (plain, offset))
    assert before > 20
    assert after < before / 5
    for each, block, translation in zip(plain, some, translations, strict=True):
        assert ((each.labels == NO_LABEL) == (translation.source < 0)).all()
        with torch.no_grad():
            predicted = base(torch.tensor([block.ids])).logits[0].argmax(-1).numpy()
        assert (each.target_prediction == predicted).mean() > 0.99


def test_passages_of_real_books(anchors, books):
    passages = anchor_passages(books[0], anchors, num=300, prompt_words=40)
    assert len(passages) == 300
    assert all(len(passage.prompt.split()) == 40 for passage in passages)
    assert all(
        passage.key not in {found.key for found in find_anchors(passage.prompt, anchors)} for passage in passages
    )
