"""Sequential requests: each run of a chain unlearns its own part of MUSE's `sust`, from what the run before it left."""

import json

import pytest
from safetensors.numpy import load_file

from expunge.config.load import parse
from expunge.config.recipe import Recipe, Scratch
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.records import BenchmarkResult, Manifest
from expunge.rundir import read_record
from expunge.runs.run import run

TOWNS = [f"Town {i} lies on the river number {i}." for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "towns"
    for subset in ("raw", "sust", "verbmem"):
        (root / subset).mkdir(parents=True)
    for number, towns in ((1, TOWNS[:1]), (2, TOWNS[1:3])):
        (root / f"sust/forget_{number}.jsonl").write_text("\n".join(json.dumps({"text": town}) for town in towns))
    (root / "raw/retain1.jsonl").write_text(json.dumps({"text": TOWNS[3]}))
    (root / "verbmem/forget.jsonl").write_text(json.dumps({"prompt": "Town 0 lies", "gt": "on the river number 0."}))
    tokenizer = train_tokenizer(TOWNS * 9, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    build_scratch(scratch, tokenizer, seed=0).save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    return root


def request(folder, number, model):
    """The recipe of one request."""
    recipe = {
        "name": f"request-{number}",
        "model": {"name": str(model), "device": "cpu"},
        "data": {
            "name": "files",
            "forget": {"path": str(folder / f"sust/forget_{number}.jsonl")},
            "retain": {"path": str(folder / "raw/retain1.jsonl")},
        },
        "method": "graddiff",
        "train": {"steps": 2, "lr": 1e-2, "batch_size": 2, "max_length": 64},
        "evaluate": {
            "benchmarks": [{"name": "muse", "path": str(folder), "parts": ["verbmem"], "verbmem_tokens": 4}],
            "bootstrap": 0,
            "every_epoch": False,
        },
    }
    return parse(recipe, Recipe, source="the test")


@pytest.mark.slow
def test_each_request_has_its_own_data_and_starts_where_the_last_one_ended(folder, tmp_path):
    first = run(request(folder, 1, tmp_path / "target"), runs=tmp_path / "runs")
    second = run(request(folder, 2, f"{first.folder}/checkpoint"), runs=tmp_path / "runs")
    manifests = [read_record(tmp_path / f.folder / "manifest.json", Manifest) for f in (first, second)]
    assert [manifest.num_rows["forget"] for manifest in manifests] == [1, 2]
    assert manifests[0].data_hashes["forget"] != manifests[1].data_hashes["forget"]
    before, after = (
        [
            read_record(next((tmp_path / f.folder / "results").glob(f"{role}-*.json")), BenchmarkResult).model_hash
            for f in (first, second)
        ]
        for role in ("target", "unlearned")
    )
    assert before[1] == after[0]
    assert len({*before, *after}) == 3
    weights = [load_file(tmp_path / f.folder / "checkpoint/model.safetensors") for f in (first, second)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
