"""`expunge audit` on a model and on a run."""

import json

import pytest
import yaml


def test_model_with_a_control(cli, tiny_model, recipe_file):
    words = ["--data", recipe_file.parent / "forget.jsonl", "--retain-model", tiny_model, "--out", "found"]
    done = cli("audit", tiny_model, "leaks", *words, "--set", "max_new_tokens=5", "--set", "views=[novel_recall, third_person]")
    assert done.code == 0, done.err
    assert "before (leak)" in done.out
    assert "third_person (leak)" in done.out
    assert "Inconclusive: 2 of 2 attempts show neither" in done.out
    assert "No target is available as a control" in done.out
    record = json.loads((recipe_file.parent / "found/audits/leaks.json").read_text())
    assert set(record["arms"]) == {"unlearned", "retain"}
    assert record["settings"]["max_new_tokens"] == 5
    assert (recipe_file.parent / "found" / record["samples"]).is_file()


def test_run_uses_its_own_data_and_target(cli, recipe_file):
    done = cli("run", recipe_file, "--json")
    assert done.code == 0, done.err
    folder = json.loads(done.out)["folder"]
    audited = cli("audit", folder, "leaks", "--set", "max_new_tokens=5", "--json")
    assert audited.code == 0, audited.err
    record = json.loads(audited.out)
    assert set(record["arms"]) == {"unlearned", "target"}
    assert record["outcome"] == "inconclusive"
    page = (recipe_file.parent / folder / "report.html").read_text()
    assert "novel_recall" in page
    assert "A leak cannot be told from a guess without a retain model" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["leeks"], "Did you mean 'leaks'"),
        (["--set", "views=[]"], "views"),
        (["--set", "view=[clues]"], "views"),
        (["--set", "threshold=0"], "threshold"),
        (["--retain-model", "nowhere/at-all"], "nowhere/at-all"),
        (["--data", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_bad_input(cli, tiny_model, recipe_file, words, message):
    data = [] if "--data" in words else ["--data", recipe_file.parent / "forget.jsonl"]
    named = words if words[0] == "leeks" else ["leaks", *words]
    done = cli("audit", tiny_model, *named, *data)
    assert done.code == 2
    assert message in done.err.replace("\n", " ")


def test_unfinished_run(cli, recipe_file):
    folder = recipe_file.parent / "half"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(yaml.safe_load(recipe_file.read_text())))
    done = cli("audit", folder)
    assert done.code == 2
    assert "not finished" in done.err
    done = cli("audit", folder, "--split", "forget01")
    assert done.code == 2
    assert "comes from the run itself" in done.err.replace("\n", " ")
