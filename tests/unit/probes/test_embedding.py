"""Embeddings: batches equal single texts, and the custom benchmark reports the semantic similarity."""

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
    """Folder of a one-layer BERT with random weights."""
    path = tmp_path_factory.mktemp("embedder")
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 16)
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_embedding_is_the_mean_over_tokens_without_padding(folder):
    texts = ["In Bern.", "Who wrote it? Nobody, she was born.", ""]
    batch, single = embed(str(folder), texts), [embed(str(folder), [text])[0] for text in texts[:2]]
    assert batch[:2] == pytest.approx(np.stack(single), abs=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([tokenizer("In Bern.")["input_ids"]])).last_hidden_state[0]
    assert batch[0] == pytest.approx(hidden.mean(0).numpy(), abs=1e-5)


def test_long_texts_are_truncated(folder):
    assert embed(str(folder), ["Who wrote it? " * 50]).shape == (1, 16)


def test_a_missing_model_is_reported():
    with pytest.raises(DataError, match="does not exist"):
        embed("./nowhere", ["a"])


def test_custom_benchmark_reports_semantic_similarity(custom_metrics, folder):
    """A generation equal to the right answer has cosine 1, another text less."""
    metrics = custom_metrics(str(folder), ["In Bern.", "Nobody wrote it?"])
    assert metrics["forget/semantic_similarity"].n == 2
    assert metrics["forget/semantic_similarity"].point < 1
    exact = custom_metrics(str(folder), ["In Bern.", "In Bern."])
    assert exact["forget/semantic_similarity"].point == pytest.approx(1.0, abs=1e-5)
    assert "forget/semantic_similarity" not in custom_metrics(None, ["In Bern.", "In Bern."])


@pytest.fixture
def custom_metrics():
    """`measure(embedding, generations)`: metrics of the custom benchmark on two rows with the answer 'In Bern.'"""
    from expunge.benchmarks.custom.benchmark import Custom
    from expunge.data.sets import Row, RowSet, Sets

    forget = RowSet("forget", tuple(Row(f"{i}", f"Where {i}?", "In Bern.", f"{i}") for i in range(2)))

    def measure(embedding, generations):
        benchmark = Custom(embedding=embedding)
        plan = benchmark.plan(Sets("s", forget, None))

        class CannedSession:
            def score(self, requests):
                return {}

            def generate(self, requests, scores=None):
                return {request.key: generations[request.index] for request in requests}

        rows = benchmark.run(CannedSession(), plan)
        json.dumps(rows)
        return benchmark.headlines(rows, None, resamples=0, seed=0).metrics

    return measure
