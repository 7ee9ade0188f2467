"""Facts by which two measurements are compared, and what differs in the message."""

import pytest
from transformers import LlamaConfig

from expunge.config.recipe import Prompt
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.modeling.load import train_tokenizer
from expunge.modeling.opening import check_same_settings, comparable_facts

FACTS = {"prompt": "p", "tokenizer": "t", "vocab": 300, "architecture": "llama", "split": "forget10"}
WORDS = {
    "prompt": "prompt",
    "tokenizer": "tokenizer",
    "vocab": "number of embeddings",
    "architecture": "model family",
    "split": "split",
}


@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_is_compared_where_both_have_it(fact):
    others = {**FACTS, fact: "another"}
    with pytest.raises(IncompatibleError, match=f"measured with another {WORDS[fact]}: another, here it is"):
        check_same_settings(FACTS, others)
    check_same_settings(FACTS, {**FACTS, fact: None})
    check_same_settings({name: value for name, value in FACTS.items() if name != fact}, others)


def test_a_tokenizer_is_identified_by_its_vocabulary():
    """Two vocabularies of one size give other facts; the same one, saved and loaded, the same."""
    first, again, other = (train_tokenizer([text] * 9, 300, 64) for text in ("Who? She.", "Who? She.", "Where? Here."))
    facts = [
        comparable_facts(Template(tokenizer, Prompt(), 64), LlamaConfig(vocab_size=300))
        for tokenizer in (first, again, other)
    ]
    assert facts[0] == facts[1]
    assert facts[0]["tokenizer"] != facts[2]["tokenizer"]
