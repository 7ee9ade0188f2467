"""Who's Harry Potter from texts to labelled rows: labels, caches, loss, and errors."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import transformers

import expunge
from expunge.cli.main import main
from expunge.config.load import parse_recipe
from expunge.config.recipe import Prompt
from expunge.data.blocks import cut_blocks
from expunge.data.collate import collate
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import NO_LABEL, Encoded, Template
from expunge.errors import ConfigError, DataError, IncompatibleError
from expunge.methods.whp.labels import TokenSpans, translate
from expunge.methods.whp.method import WHP
from expunge.methods.whp.preparation import read_labels
from expunge.modeling.batch import TensorBatch
from expunge.modeling.load import train_tokenizer
from expunge.modeling.step import Counts, Step

STORY = "Then Zorblatt met Mira in Quem. Mira gave Zorblatt a lamp, and all of Quem saw how Zorblatt ran home. " * 6
OTHER = "Then Thomas met a friend in town. The friend gave him a lamp, and all the people saw how he ran home. " * 6
ANCHORS = {"Zorblatt": ["Thomas", "Walter"], "Mira": ["Nora", "Clara", "Ruth"], "Quem": ["Milton"]}
CONTEXT = 24


def tiny(seed, tokenizer):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)
    return model


@pytest.fixture(scope="module")
def template():
    tokenizer = train_tokenizer([STORY, OTHER], vocab_size=330, max_length=64)
    return Template(tokenizer, Prompt(style="plain", question="{question}", answer="{answer}"), max_length=64)


@pytest.fixture
def preparation(template, tmp_path):
    base, reinforced = tiny(0, template.tokenizer), tiny(1, template.tokenizer)
    calls = []

    def fine_tune(name, rows, train):
        calls.append((name, rows, train))
        return reinforced

    story, other = (RowSet(n, (Row(n, "", text, n),)) for n, text in (("forget", STORY), ("retain", OTHER)))
    return SimpleNamespace(
        sets=Sets("test", story, other),
        template=template,
        folder=tmp_path / "prepared",
        seed=3,
        open_target=lambda: base,
        fine_tune=fine_tune,
        batch_tokens=3 * CONTEXT,
        models=(base, reinforced),
        calls=calls,
    )


@pytest.fixture
def anchor_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(ANCHORS))
    return {"source": "file", "path": str(path)}


def test_labels_equal_their_definition(preparation, anchor_file):
    """The batched code agrees with a loop over blocks and positions on full logits in float64."""
    method = WHP(alpha=2, context=CONTEXT, anchors=anchor_file)
    rows = method.prepare(preparation)["forget"]
    blocks = cut_blocks(preparation.sets.forget, preparation.template, CONTEXT)
    spans = TokenSpans(preparation.template.tokenizer)
    base, reinforced = preparation.models
    assert len(rows) == len(blocks) > 5
    num_labels = 0
    for number, (row, block) in enumerate(zip(rows, blocks, strict=True)):
        assert row.ids == block.ids
        assert row.answer_start == 1
        t = translate(block, ANCHORS, spans, np.random.default_rng([3, number]))
        with torch.no_grad():
            generic = base(torch.tensor([t.ids])).logits[0].double()
            raised = reinforced(torch.tensor([block.ids])).logits[0].double()
        for position, label in enumerate(row.labels):
            if t.source[position] < 0:
                assert label == NO_LABEL
                continue
            v = generic[t.source[position]].clone()
            for start, tokens in t.forbidden:
                if position >= start:
                    v[list(tokens)] = generic[t.source[position]].mean()
            assert label == int((v - 2 * (raised[position] - v).clamp(min=0)).argmax())
            num_labels += 1
        assert len(row.labels) == len(block.ids) - 1
    assert 0 < num_labels < len(blocks) * (CONTEXT - 1), "some positions have labels and some have none"


def test_the_reinforced_model_learns_the_same_blocks(preparation, anchor_file):
    method = WHP(context=CONTEXT, anchors=anchor_file, reinforce={"lr": 1e-4})
    method.prepare(preparation)
    ((name, rows, train),) = preparation.calls
    assert name == "reinforced"
    assert [row.ids for row in rows] == [
        b.ids for b in cut_blocks(preparation.sets.forget, preparation.template, CONTEXT)
    ]
    assert all(row.labels is None and row.answer_start == 1 for row in rows)
    assert (train.epochs, train.lr) == (3, 1e-4)


def test_a_second_call_reads_the_cache(preparation, anchor_file):
    method = WHP(context=CONTEXT, anchors=anchor_file)
    first = method.prepare(preparation)
    preparation.open_target = preparation.fine_tune = None
    assert method.prepare(preparation) == first


def test_anchors_are_mined_and_saved_by_default(preparation):
    WHP(context=CONTEXT, anchors={"source": "corpus", "min_count": 3, "ratio": 2}).prepare(preparation)
    assert {"Zorblatt", "Mira", "Quem"} <= set(json.loads((preparation.folder / "anchors.json").read_text()))


def test_the_label_file_has_predictions_and_labels(preparation, anchor_file):
    WHP(context=CONTEXT, anchors=anchor_file).prepare(preparation)
    table = pq.read_table(preparation.folder / "labels.parquet").to_pylist()
    decode = preparation.template.tokenizer.decode
    first = table[:CONTEXT]
    assert [row["position"] for row in first] == list(range(CONTEXT))
    assert "".join(row["token"] for row in first).startswith("<s>Then Zorblatt met Mira")
    predicted = preparation.models[0](torch.tensor([[row["token_id"] for row in first]])).logits[0].argmax(-1)
    assert [row["target_prediction"] for row in first] == [decode([int(i)]) for i in predicted]
    assert {row["generic_label"] == "" for row in table if row["generic_label_id"] == NO_LABEL} == {True}


def test_labels_equal_to_the_prediction_can_be_left_out(preparation, anchor_file):
    """With learn 'changed' the labels are those of 'all' without the ones that the target predicts already."""
    everything = WHP(context=CONTEXT, anchors=anchor_file, alpha=2).prepare(preparation)["forget"]
    changed = WHP(context=CONTEXT, anchors=anchor_file, alpha=2, learn="changed").prepare(preparation)["forget"]
    base = preparation.models[0]
    for full, reduced in zip(everything, changed, strict=True):
        with torch.no_grad():
            predicted = base(torch.tensor([full.ids])).logits[0].argmax(-1).tolist()
        assert list(reduced.labels) == [NO_LABEL if a == b else a for a, b in zip(full.labels, predicted, strict=False)]
    assert sum(row.num_answer for row in changed) < sum(row.num_answer for row in everything)


def test_damaged_or_foreign_labels_are_refused(preparation, anchor_file):
    method = WHP(context=CONTEXT, anchors=anchor_file)
    method.prepare(preparation)
    with pytest.raises(DataError, match="belong to other blocks"):
        WHP(context=CONTEXT + 1, anchors=anchor_file).prepare(preparation)
    (preparation.folder / "labels.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"labels\.parquet cannot be read"):
        method.prepare(preparation)


def test_blocks_longer_than_the_context_are_refused(preparation, anchor_file):
    with pytest.raises(IncompatibleError, match=r"method\.context: blocks of 65 tokens .* context of 64"):
        WHP(context=65, anchors=anchor_file).prepare(preparation)


def test_a_service_is_called_with_the_settings(preparation, monkeypatch):
    """The address refuses connections, so the error shows the number of attempts."""
    method = WHP(
        context=CONTEXT,
        anchors={
            "source": "service",
            "base_url": "http://127.0.0.1:9/v1",
            "model": "m",
            "attempts": 2,
            "backoff_seconds": 0,
        },
    )
    with pytest.raises(DataError, match=r"no usable reply in 2 attempts.*anchor-replies\.jsonl"):
        method.prepare(preparation)


def test_the_target_itself_can_be_prompted(preparation):
    """A random model writes no JSON, and a second attempt with the same prompt would be useless."""
    method = WHP(context=CONTEXT, anchors={"source": "target", "max_new_tokens": 16, "chunk_characters": 200})
    preparation.models[0].config.max_position_embeddings = 4096
    with pytest.raises(DataError, match="no usable reply in 1 attempts"):
        method.prepare(preparation)


def test_labels_of_a_row_reach_the_loss(template):
    """Two rows whose labels are not their next tokens: mean of -log softmax at the three labelled positions.

    Extra padding and the other padding side change nothing.
    """
    model = tiny(0, template.tokenizer)
    rows = [
        Encoded(ids=(1, 5, 6, 7), answer_start=1, labels=(9, NO_LABEL, 8)),
        Encoded(ids=(1, 11, 12), answer_start=1, labels=(NO_LABEL, 4)),
    ]
    with torch.no_grad():
        first, second = (model(torch.tensor([row.ids])).logits[0].log_softmax(-1) for row in rows)
    expected = -(first[0, 9] + first[2, 8] + second[1, 4]) / 3
    assert [row.num_answer for row in rows] == [2, 1]
    for options in ({}, {"extra_padding": 5}, {"side": "left"}):
        step = Step({"forget": TensorBatch.of(collate(rows, 0, **options), "cpu")}, {"forget": Counts(2, 3)})
        step.bind(model)
        assert torch.allclose(WHP().loss(step).total, expected, atol=1e-5)


def test_the_gradient_is_that_of_the_generic_labels(template):
    model = tiny(0, template.tokenizer)
    row = Encoded(ids=(1, 5, 6, 7), answer_start=1, labels=(9, NO_LABEL, 8))
    step = Step({"forget": TensorBatch.of(collate([row], 0), "cpu")}, {"forget": Counts(1, 2)})
    step.bind(model)
    WHP().loss(step).total.backward()
    ours = model.lm_head.weight.grad.clone()
    model.zero_grad()
    F.cross_entropy(model(torch.tensor([row.ids])).logits[0, :3], torch.tensor([9, NO_LABEL, 8])).backward()
    assert torch.allclose(ours, model.lm_head.weight.grad, atol=1e-6)


def test_a_retain_term_is_added_only_with_a_weight(template):
    """As published, retain rows are not read; with a weight of 2 the total is CE(labels) + 2 CE(retain)."""
    model = tiny(0, template.tokenizer)
    labelled = Encoded(ids=(1, 5, 6, 7), answer_start=1, labels=(9, NO_LABEL, 8))
    retain = Encoded(ids=(1, 11, 12), answer_start=1)
    rows = {"forget": labelled, "retain": retain}
    step = Step(
        {name: TensorBatch.of(collate([row], 0), "cpu") for name, row in rows.items()},
        {"forget": Counts(1, 2), "retain": Counts(1, 2)},
    )
    step.bind(model)
    assert WHP().needs().sets == ("forget",)
    assert WHP(retain_weight=2).needs().sets == ("forget", "retain")
    assert WHP(retain_weight=2, retain="kl").needs().reference == ("retain",)
    with torch.no_grad():
        logits = model(torch.tensor([labelled.ids])).logits[0, :3]
        generic = F.cross_entropy(logits, torch.tensor([9, NO_LABEL, 8]))
        plain = F.cross_entropy(model(torch.tensor([retain.ids])).logits[0, :2], torch.tensor([11, 12]))
        assert torch.allclose(WHP(retain_weight=2).loss(step).total, generic + 2 * plain, atol=1e-5)
        assert torch.allclose(WHP().loss(step).total, generic, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -1}, "method.alpha"),
        ({"anchors": {"source": "oracle"}}, "'file', 'corpus', 'service', 'target'"),
        ({"anchors": {"source": "file"}}, "path"),
        ({"anchors": {"source": "service", "base_url": "ftp://x", "model": "m"}}, "base_url"),
        ({"anchors": {"source": "corpus", "model": "m"}}, "model"),
        ({"retain": "kl"}, "no effect with retain_weight 0"),
        ({"reinforce": {"max_length": 64}}, "max_length has no effect"),
    ],
)
def test_bad_settings(settings, words):
    recipe = {
        "name": "x",
        "model": {"name": "a/b"},
        "data": {"name": "tofu"},
        "method": {"name": "whp", **settings},
        "train": {"epochs": 1, "lr": 1e-5},
    }
    with pytest.raises(ConfigError) as caught:
        parse_recipe(recipe)
    assert words in str(caught.value)


@pytest.mark.slow
def test_a_full_run_and_its_labels_on_the_command_line(tmp_path, anchor_file, capsys):
    """A few steps of each stage: target, reinforced model, labels, unlearning, familiarity, and `show-labels`."""
    for name, text in (("forget", STORY), ("retain", OTHER)):
        (tmp_path / f"{name}.txt").write_text(text)
    training = {"steps": 2, "lr": 1e-3, "batch_size": 4, "max_length": 64}
    recipe = {
        "name": "small-whp",
        "model": {
            "scratch": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 330, "max_length": 64},
            "device": "cpu",
        },
        "prompt": {"style": "plain", "question": "{question}", "answer": "{answer}"},
        "data": {
            "name": "files",
            "forget": {"path": str(tmp_path / "forget.txt")},
            "retain": {"path": str(tmp_path / "retain.txt")},
            "long_text": "chunk",
        },
        "target": training,
        "method": {
            "name": "whp",
            "context": 32,
            "anchors": anchor_file,
            "reinforce": {"steps": 2, "epochs": None, "lr": 1e-3, "batch_size": 4},
        },
        "train": training,
        "evaluate": {
            "benchmarks": [{"name": "familiarity", "anchors": anchor_file["path"], "num": 8, "prompt_words": 5}],
            "bootstrap": 20,
        },
    }
    summary = expunge.run(parse_recipe(recipe), runs=tmp_path / "runs")
    headlines = summary.headlines["unlearned"]
    assert set(headlines) == {"familiarity", "anchor_probability", "forget_perplexity", "retain_perplexity"}
    assert headlines["forget_perplexity"].point > 1
    assert headlines["familiarity"].n == 8
    assert (tmp_path / summary.folder / "checkpoint/config.json").is_file()
    labels = read_labels(tmp_path / summary.folder / "prepared/labels.parquet")
    assert {len(block) for block in labels} == {32}
    capsys.readouterr()
    assert main(["show-labels", summary.folder, "--limit", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["position"] for row in shown] == [0, 1, 2]
    assert shown[0]["token"] == "<s>"
    assert main(["show-labels", summary.folder, "--start", "5", "--limit", "20", "--changed", "--json"]) == 0
    changed = json.loads(capsys.readouterr().out)
    assert (changed[0]["block"], len(changed)) == (0, 20)
    assert all(row["generic_label"] not in ("", row["target_prediction"]) for row in changed)
    assert changed[0]["position"] >= 5
    assert main(["show-labels", summary.folder, "--limit", "40"]) == 0
    assert "(none)" in capsys.readouterr().out
    assert main(["show-labels", str(tmp_path)]) == 2
    assert "has no generic labels" in capsys.readouterr().err
