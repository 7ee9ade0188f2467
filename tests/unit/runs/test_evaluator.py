"""What an evaluation keeps: no text of sensitive data, and a run of its own for every file that a recipe names."""

import json

import pytest

from expunge.benchmarks.tofu.benchmark import Tofu
from expunge.config.recipe import FilesData, Measure, Prompt, Recipe, Scratch, Source
from expunge.data.prepare import prepare_sets
from expunge.data.templates import Template
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.runs.context import prepare
from expunge.runs.evaluator import Evaluator
from expunge.runs.results import read_rows, without_text

SECRET = "Zorblatt"


@pytest.fixture
def measured(tmp_path):
    """`measured(sensitive)`: rows of a tiny model, and everything that was written, as bytes."""
    rows = [{"question": f"Who is {SECRET} {i}?", "answer": f"{SECRET}, of course, {i}."} for i in range(3)]
    path = tmp_path / "forget.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    tokenizer = train_tokenizer([row["question"] + row["answer"] for row in rows] * 9, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    model = build_scratch(scratch, tokenizer, seed=0)

    def run(sensitive: bool):
        sets = prepare_sets(FilesData(forget=Source(path=str(path)), sensitive=sensitive))
        cache = tmp_path / f"cache-{sensitive}"
        evaluator = Evaluator(sets, Template(tokenizer, Prompt(), 64), Measure(batch_tokens=4096), cache=cache)
        found = evaluator.measure(model, Tofu(max_new_tokens=5), "it")
        (kept,) = cache.glob("*.parquet")
        return found.rows, read_rows(kept), sorted(path.name for path in cache.rglob("*"))

    return run


def test_sensitive_texts_are_in_no_record(measured):
    rows, kept, files = measured(True)
    assert SECRET not in str(rows) + str(kept)
    assert not any("probes" in name for name in files)
    open_rows, _, open_files = measured(False)
    assert SECRET in str(open_rows)
    assert any("probes" in name for name in open_files)
    assert [row["nll"] for row in rows] == [row["nll"] for row in open_rows]


def test_hidden_texts_can_still_be_told_apart_and_matched():
    rows = [{"set": "forget", "question": text, "wrong": [text, "b"], "nll": 1.0} for text in ("x", "y", "x")]
    hidden = [without_text(row) for row in rows]
    assert hidden[0] == hidden[2] != hidden[1]
    assert hidden[0]["set"] == "forget"
    assert hidden[0]["wrong"][0] == hidden[0]["question"] != hidden[0]["wrong"][1]


def test_changed_anchors_are_another_run(tmp_path):
    """The path stands in the recipe; the names and their replacements stand in the file."""
    (tmp_path / "texts.txt").write_text("Zorblatt went home. " * 20)
    anchors = tmp_path / "anchors.json"
    recipe = Recipe.model_validate(
        {
            "name": "whp",
            "model": {"scratch": {"vocab_size": 300, "max_length": 64}},
            "data": {"name": "files", "forget": {"path": str(tmp_path / "texts.txt")}, "long_text": "chunk"},
            "target": {"steps": 1, "lr": 1e-3},
            "method": {"name": "whp", "anchors": {"source": "file", "path": str(anchors)}, "context": 32},
            "train": {"steps": 1, "lr": 1e-3, "max_length": 32},
        }
    )
    names = set()
    for stand_in in ("Tom", "Jim", "Tom"):
        anchors.write_text(json.dumps({"Zorblatt": stand_in}))
        names.add(prepare(recipe, tmp_path / "runs").fingerprint)
    assert len(names) == 2
