"""Embeddings by a local text model: one text at a time gives the same, and meaning reaches the benchmark."""

import json

import numpy as np
import pytest
import torch
import transformers

from expunge.errors import DataError
from expunge.modeling.load import train_tokenizer
from expunge.probes.embedding import embed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A one-layer BERT of random weights."""
    place = tmp_path_factory.mktemp("embedder")
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 16)
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_mean_over_tokens_and_not_over_padding(folder):
    texts = ["In Bern.", "Who wrote it? Nobody, she was born.", ""]
    together, alone = embed(str(folder), texts), [embed(str(folder), [text])[0] for text in texts[:2]]
    assert together[:2] == pytest.approx(np.stack(alone), abs=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([tokenizer("In Bern.")["input_ids"]])).last_hidden_state[0]
    assert together[0] == pytest.approx(hidden.mean(0).numpy(), abs=1e-5)


def test_long_texts_are_cut(folder):
    assert embed(str(folder), ["Who wrote it? " * 50]).shape == (1, 16)


def test_absent_model():
    with pytest.raises(DataError, match="does not exist"):
        embed("./nowhere", ["a"])


def test_custom_reports_it(cli_free_custom, folder):
    """The right answer itself has cosine 1 with itself; another text less."""
    found = cli_free_custom(str(folder), ["In Bern.", "Nobody wrote it?"])
    assert found["forget/semantic_similarity"].n == 2
    assert found["forget/semantic_similarity"].point < 1
    same = cli_free_custom(str(folder), ["In Bern.", "In Bern."])
    assert same["forget/semantic_similarity"].point == pytest.approx(1.0, abs=1e-5)
    assert "forget/semantic_similarity" not in cli_free_custom(None, ["In Bern.", "In Bern."])


@pytest.fixture
def cli_free_custom():
    """`measure(embedding, generations)`: metrics of two forget rows whose right answer is 'In Bern.'"""
    from expunge.benchmarks.custom.benchmark import Custom
    from expunge.data.sets import Row, RowSet, Sets

    rows = RowSet("forget", tuple(Row(f"{i}", f"Where {i}?", "In Bern.", f"{i}") for i in range(2)))

    def measure(embedding, generations):
        benchmark = Custom(embedding=embedding)
        plan = benchmark.plan(Sets("s", rows, None))

        class Answers:
            def score(self, requests):
                return {}

            def generate(self, requests, scores=None):
                return {request.key: generations[request.index] for request in requests}

        found = benchmark.run(Answers(), plan)
        json.dumps(found)
        return benchmark.headlines(found, None, resamples=0, seed=0).metrics

    return measure
