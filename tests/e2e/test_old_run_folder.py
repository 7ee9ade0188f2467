"""A run folder of record format 1, from before the retain model had its name, is refused with one sentence."""

import json

import pytest

RECIPE = """\
name: old
model: {name: some/model, reference: some/retain90}
data: {name: tofu}
method: {name: npo}
train: {epochs: 1, lr: 1.0e-05}
evaluate: {benchmarks: [{name: tofu}], select: utility_at_quality}
targets: {forget_quality: {value: 0.5, source: a paper}}
"""
STAGE = {"schema_version": 1, "name": "prepare", "fingerprint": "0f390e140fab", "output": {}, "seconds": 1.0}
RESULT = {
    "schema_version": 1,
    "benchmark": "tofu",
    "role": "reference",
    "model": "some/retain90",
    "model_hash": "",
    "headlines": {"model_utility": {"point": 0.6}},
}
MANIFEST = {
    "schema_version": 1,
    "recipe": "old",
    "fingerprint": "0f390e140fab",
    "created": "2025-01-01T00:00:00",
    "expunge": "0.1.0",
    "models": {"target": "some/model", "reference": "some/retain90"},
}
REFUSAL = "was written by another version of expunge (record format 1, this version reads 2)"


@pytest.fixture
def old_run(tmp_path):
    """`old_run(*names)`: a run folder with some of the records that version 1 wrote."""
    records = {
        "stages/prepare.json": STAGE,
        "results/reference-tofu.json": RESULT,
        "manifest.json": MANIFEST,
    }

    def make(*names):
        folder = tmp_path / "old-0f390e140fab"
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "recipe.yaml").write_text(RECIPE)
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(records[name]))
        return folder

    return make


@pytest.mark.parametrize("name", ["stages/prepare.json", "results/reference-tofu.json", "manifest.json"])
def test_report(cli, old_run, name):
    """Each record alone is enough to refuse the folder, finished or not."""
    outcome = cli("report", old_run(name))
    assert outcome.code == 2
    assert REFUSAL in outcome.err
    assert "run the recipe again" in outcome.err


def test_audit(cli, old_run):
    outcome = cli("audit", old_run("stages/prepare.json", "manifest.json"))
    assert outcome.code == 2
    assert REFUSAL in outcome.err


def test_a_stored_result_as_retain_model(cli, old_run, tiny_model, recipe_file):
    stored = old_run("results/reference-tofu.json") / "results/reference-tofu.json"
    outcome = cli("evaluate", tiny_model, "--data", recipe_file.parent / "forget.jsonl", "--retain-model", stored)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_an_old_recipe_names_the_new_keys(cli, old_run):
    outcome = cli("check", old_run() / "recipe.yaml")
    assert outcome.code == 2
    assert "reference" in outcome.err
    assert "targets" in outcome.err
