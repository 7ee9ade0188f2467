"""`expunge audit perturb`: parts that need the target, and saved results."""

import json

WORDS = ("--set", "sigmas=[0.1]", "--set", "sparsities=[]", "--set", "alphas=[0.5]", "--out", "found")


def test_a_target_given_later_is_used(cli, tiny_model, recipe_file):
    """Results that were saved without a target lack the interpolation, so they are not read again with one."""
    command = ("audit", tiny_model, "perturb", "--data", recipe_file.parent / "forget.jsonl", *WORDS)
    done = cli(*command)
    assert done.code == 0, done.err
    path = recipe_file.parent / "found/audits/perturb.json"
    record = json.loads(path.read_text())
    assert [finding["attempt"] for finding in record["findings"]] == ["before", "noise 0.1"]
    assert any("Interpolation was not run" in note for note in record["notes"])
    done = cli(*command, "--target", tiny_model)
    assert done.code == 0, done.err
    record = json.loads(path.read_text())
    assert [finding["attempt"] for finding in record["findings"]] == ["before", "noise 0.1", "interpolation 0.5"]
    assert record["findings"][0]["facts"]["distance_to_target"] == 0.0
    assert record["findings"][2]["not_counted"]
    assert not any("Interpolation" in note for note in record["notes"])
    again = cli(*command, "--target", tiny_model)
    assert "Attacking" not in again.out + again.err, "finished parts are read from the folder"


def test_audits_that_split_people_say_why_they_cannot_run(cli, tiny_model, recipe_file):
    """One person only: the other audits run, and the reason is in the verdict."""
    data = ("--data", recipe_file.parent / "forget.jsonl", "--target", tiny_model)
    done = cli("audit", tiny_model, "soft_prompt", *data)
    assert done.code == 2
    assert "only one person" in done.err.replace("\n", " ")
    done = cli("audit", tiny_model, "directions", "--data", recipe_file.parent / "forget.jsonl")
    assert done.code == 2
    assert "needs the target" in done.err.replace("\n", " ")
