"""Perplexity of generated answers under another model: recomputed with plain forward passes."""

import math

import pytest
import torch

from expunge.benchmarks.custom.benchmark import Custom
from expunge.config.recipe import Prompt, Scratch
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.probes.cache import ProbeCache
from expunge.probes.session import Session

ROWS = RowSet("forget", tuple(Row(f"{i}", f"Where was she {i}?", "In Bern.", f"{i}") for i in range(3)))


def made(seed, vocab_size=300):
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 64)
    scratch = Scratch(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=vocab_size, max_length=64
    )
    model = build_scratch(scratch, tokenizer, seed=seed).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer


@pytest.fixture
def target(tmp_path):
    model, tokenizer = made(1)
    model.save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    return model, str(tmp_path / "target")


def measured(**settings):
    torch.manual_seed(0)
    model, tokenizer = made(0)
    sets = Sets("s", ROWS, None)
    session = Session(model, sets, Template(tokenizer, Prompt(), 64), 4096, ProbeCache(None, None), "it")
    benchmark = Custom(max_new_tokens=6, **settings)
    rows = benchmark.run(session, benchmark.plan(sets))
    return session, rows, benchmark.headlines(rows, None, resamples=0, seed=0).metrics


def test_under_the_named_model(target):
    model, name = target
    session, rows, found = measured(fluency_model=name)
    total, count = 0.0, 0
    for row in rows:
        if not row["generation"]:
            continue
        item = session.template.encode(row["question"], row["generation"])
        with torch.no_grad():
            logp = model(torch.tensor([item.ids])).logits[0].double().log_softmax(-1)
        for place in range(item.answer_start, len(item.ids)):
            total += logp[place - 1, item.ids[place]].item()
            count += 1
    assert count > 3
    assert found["forget/fluency_perplexity"].point == pytest.approx(math.exp(-total / count), rel=1e-4)
    assert found["forget/fluency_perplexity"].better == "lower"


def test_without_a_model_there_is_no_such_number():
    assert "forget/fluency_perplexity" not in measured()[2]


def test_a_model_with_another_vocabulary_is_refused(tmp_path):
    model, tokenizer = made(1, vocab_size=310)
    model.resize_token_embeddings(280)
    model.save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(IncompatibleError):
        measured(fluency_model=str(tmp_path / "small"))


def test_it_has_no_effect_without_generation():
    with pytest.raises(ValueError, match="fluency_model has no effect"):
        Custom(generate=False, fluency_model="m")
