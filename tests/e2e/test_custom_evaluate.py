"""`expunge evaluate MODEL --benchmark custom` on the user's own files."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def files(tmp_path):
    """Three sets of questions, and one of plain text."""
    for name, town in (("forget", "Bern"), ("retain", "Rome"), ("holdout", "Oslo")):
        rows = [{"question": f"Where was number {i} born?", "answer": f"In {town} {i}."} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "book.txt").write_text("Who wrote it? Nobody.\n\nWhere was she born? In Bern.\n")
    return tmp_path


def words(model, data, *settings):
    options = [
        word for setting in ("max_new_tokens=3", "evaluate.bootstrap=10", *settings) for word in ("--set", setting)
    ]
    return ["evaluate", model, "--benchmark", "custom", "--data", data, *options]


def test_forget_rows_alone(cli, tiny_model, files):
    outcome = cli(*words(tiny_model, files / "forget.jsonl"), "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert 0 <= result["forget_knowledge"]["point"] <= 1
    assert "data.retain=" in result["retain_knowledge"]["needs"]
    assert "data.holdout=" in result["membership_auc"]["needs"]
    metrics = result["record"]["metrics"]
    assert 0 < metrics["forget/probability"]["point"] < 1
    assert metrics["forget/perplexity"]["point"] > 1
    assert metrics["forget/rouge_l_recall"]["n"] == 4


def test_all_sets_and_a_retain_model_from_disk(cli, tiny_model, files):
    sets = [f"data.{name}.path={files / name}.jsonl" for name in ("retain", "holdout")]
    command = words(tiny_model, files / "forget.jsonl", *sets)
    assert cli(*command, "--out", "measured").code == 0
    stored = files / "measured/results/model-custom.json"
    outcome = cli(*command, "--retain-model", stored, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    # The same model in both places.
    assert result["forget_agreement"]["point"] == 1.0
    assert result["privleak"]["point"] == 0.0
    assert result["membership_auc"]["low"] is None
    assert "at least 5 are needed" in result["membership_auc"]["no_interval"]
    assert result["retain_knowledge"]["point"] is not None
    table = cli(*command).out
    assert "needs" in table
    assert "no interval: " in table
    assert "model.retain_model=" in table


def test_plain_text(cli, tiny_model, files):
    outcome = cli(*words(tiny_model, files / "book.txt"), "--json")
    assert outcome.code == 0, outcome.err
    metrics = json.loads(outcome.out)["record"]["metrics"]
    assert metrics["forget/perplexity"]["n"] == 2
    assert "plain text" in metrics["forget/rouge_l_recall"]["needs"]


def test_bad_rows_name_file_and_line(cli, tiny_model, files):
    bad = files / "bad.jsonl"
    bad.write_text('{"question": "Who?", "answer": "She."}\n{"question": "Where?", "answer": ""}\n')
    outcome = cli(*words(tiny_model, bad))
    assert outcome.code == 2
    assert f"{bad}, line 2 has no answer" in outcome.err
    bad.write_text('{"question": "Who?", "answer": "She."}\n{"question": "Where?"\n')
    outcome = cli(*words(tiny_model, bad))
    assert outcome.code == 2
    assert f"{bad}, line 2 is not valid JSON" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_retain_model_of_other_rows_and_a_wrong_setting_are_refused(cli, tiny_model, files):
    assert cli(*words(tiny_model, files / "forget.jsonl"), "--out", "measured").code == 0
    stored = files / "measured/results/model-custom.json"
    outcome = cli(*words(tiny_model, files / "holdout.jsonl"), "--retain-model", stored)
    assert outcome.code == 2
    assert "forget/0" in outcome.err
    outcome = cli(*words(tiny_model, files / "forget.jsonl", "mink=0.2"))
    assert outcome.code == 2
    assert "min_k" in outcome.err
