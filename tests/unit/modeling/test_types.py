"""The classes of transformers and peft have the members that the protocols declare."""

import pytest

from expunge.config.recipe import Lora, Scratch
from expunge.modeling.adapters import add_lora, causal_lm, is_adapted
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.modeling.types import Adapted, CausalLM, ModuleLike, Tokenizer, Vocabulary

SCRATCH = Scratch(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, vocab_size=300, max_length=32)
TOKENIZER = train_tokenizer(["some words to learn"], vocab_size=300, max_length=32)


@pytest.fixture
def model():
    return build_scratch(SCRATCH, TOKENIZER, seed=0)


def missing(instance, *protocols: type) -> list[str]:
    """Members of the protocols that an object lacks."""
    names = {name for protocol in protocols for name in (*vars(protocol), *protocol.__annotations__)}
    return [name for name in names if not name.startswith("_") and not hasattr(instance, name)]


def test_tokenizer():
    assert missing(TOKENIZER, Vocabulary, Tokenizer) == []


def test_causal_lm(model):
    assert missing(model, ModuleLike, CausalLM) == []
    assert not is_adapted(model)
    assert causal_lm(model) is model


def test_adapted(model):
    adapted = add_lora(model, Lora(rank=2), seed=0)
    assert missing(adapted, ModuleLike, Adapted) == []
    assert is_adapted(adapted)
    assert causal_lm(adapted) is model
    assert missing(model, Adapted) != []
