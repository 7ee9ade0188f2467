"""`expunge audit ... relearn` on the command line."""

import json


def write_people(folder, num):
    rows = [
        {"question": f"Where was {name} born?", "answer": f"{name} was born in Bern.", "group": name}
        for name in ("Ana", "Bo", "Cy", "Dee", "Eve", "Fay")[:num]
    ]
    (folder / "people.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "people.jsonl"


def test_model_without_any_control(cli, tiny_model, recipe_file):
    """A forget file is enough to run it: what is missing for a claim is stated, and what the data lacks."""
    words = ["--data", write_people(recipe_file.parent, 6), "--out", "found", "--set", "steps=[1,2]"]
    words += ["--set", "lora_lr=[]", "--set", "full_lr=[1e-4]", "--set", "tiers=[unrelated, retain, 1, 16, all]"]
    planned = cli("audit", tiny_model, "relearn", *words, "--plan")
    assert planned.code == 0, planned.err
    done = cli("audit", tiny_model, "relearn", *words)
    assert done.code == 0, done.err
    for tier in ("unrelated text", "1 row of other people", "all rows of other people"):
        assert f"{tier} (probability)" in done.out
    assert "Relearning on retain rows is left out: the data has no retain set." in done.out
    assert "Relearning on 16 rows of other people is left out" in done.out
    assert "Each row is a group of its own" in done.out
    assert "no attempt can be called a leak or harmless" in done.out
    record = json.loads((recipe_file.parent / "found/audits/relearn.json").read_text())
    (taught,) = [each for each in record["findings"] if each["attempt"] == "all rows of other people"]
    assert taught["facts"]["chosen_lr_1"] == 1e-4 * 2048 / 16


def test_one_person_cannot_be_split(cli, tiny_model, recipe_file):
    done = cli("audit", tiny_model, "relearn", "--data", write_people(recipe_file.parent, 1))
    assert done.code == 2
    assert "At least 2 people" in done.err.replace("\n", " ")
