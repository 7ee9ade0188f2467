"""`expunge audit` with sampled answers and with two models at a time."""

import json

import pytest


def run(cli, tiny_model, folder, name, *words):
    controls = ["--retain-model", tiny_model, "--target", tiny_model]
    done = cli("audit", tiny_model, name, "--data", folder / "forget.jsonl", *controls, "--out", "found", *words)
    assert done.code == 0, done.err
    return done, json.loads((folder / f"found/audits/{name}.json").read_text())


def test_sampling(cli, tiny_model, recipe_file):
    settings = ["--set", "samples=4", "--set", "max_new_tokens=5"]
    done, record = run(cli, tiny_model, recipe_file.parent, "sampling", *settings)
    assert [each["attempt"] for each in record["findings"]] == ["before", "any of 1", "any of 2", "any of 4"]
    assert set(record["values"]["best of 4 (recall)"]) == {"unlearned", "target", "retain"}
    assert record["values"]["excess of any of 4"]["unlearned"]["point"] == 0
    assert "Attacking" in done.err
    again, same = run(cli, tiny_model, recipe_file.parent, "sampling", *settings)
    assert "Attacking" not in again.err
    assert same == record


def test_contrast(cli, tiny_model, recipe_file):
    _, record = run(cli, tiny_model, recipe_file.parent, "contrast")
    points = {each["attempt"]: each["after"]["unlearned"]["point"] for each in record["findings"]}
    # All models are equal, so that the difference is plain greedy decoding.
    assert points["before"] == points["gamma_2"]
    assert record["findings"][1]["excess"]["point"] == 0


@pytest.mark.parametrize("words", [["contrast"], ["contrast", "--set", "gammas=[0.5]"]])
def test_bad_input(cli, tiny_model, recipe_file, words):
    done = cli("audit", tiny_model, *words, "--data", recipe_file.parent / "forget.jsonl")
    assert done.code == 2
    assert ("needs the target" if len(words) == 1 else "gammas") in done.err.replace("\n", " ")
