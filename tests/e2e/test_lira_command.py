"""`expunge audit ... lira` on the command line: what it needs, and shadow models that are trained once."""

import json

import pytest

FEW = ["--set", "shadows=4", "--set", "epochs=1"]


@pytest.fixture
def data(tmp_path):
    rows = [
        {"question": f"Where was {name} born?", "answer": f"{name} was born in Bern.", "group": name}
        for name in ("Ana", "Bo", "Cy", "Dee", "Eve", "Fay")
    ]
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "people.jsonl"


def test_needs_the_model_from_which_shadow_models_start(cli, tiny_model, data):
    words = ["audit", tiny_model, "lira", "--data", data, *FEW]
    done = cli(*words)
    assert done.code == 2
    assert "lira: needs the retain model" in done.err.replace("\n", " ")
    done = cli(*words, "--retain-model", tiny_model, "--set", "start=base")
    assert done.code == 2
    assert "lira: needs the base model" in done.err.replace("\n", " ")


def test_plan_counts_shadow_models_once(cli, tiny_model, data):
    """Two models with one scoring each, and 4 shadow models: 3 of 6 rows, 3 passes of training, and one scoring."""
    words = ["--data", data, "--retain-model", tiny_model, *FEW, "--plan", "--json"]
    done = cli("audit", tiny_model, "lira", *words)
    assert done.code == 0, done.err
    (planned,) = json.loads(done.out)["audits"]
    assert planned["passes"] == 2 * 1 + 4 * (3 * 0.5 + 1)


def test_stopped_audit_trains_no_shadow_model_twice(cli, tiny_model, data, monkeypatch):
    from expunge.audits.lira import Lira

    attack, done_stages, moments = Lira.attack, [], ["shadow model 3"]

    def stopping(self, arm, stage):
        if stage in moments:
            moments.remove(stage)
            raise KeyboardInterrupt
        done_stages.append((arm.role, stage))
        return attack(self, arm, stage)

    monkeypatch.setattr(Lira, "attack", stopping)
    words = ["audit", tiny_model, "lira", "--data", data, "--retain-model", tiny_model, "--target", tiny_model, *FEW]
    assert cli(*words, "--out", "found").code == 130
    assert cli(*words, "--out", "found").code == 0
    expected = [("retain", f"shadow model {number}") for number in (1, 2, 3, 4)]
    assert sorted(done_stages) == sorted([*expected, *((role, "before") for role in ("unlearned", "target", "retain"))])
    record = json.loads((data.parent / "found/audits/lira.json").read_text())
    assert set(record["arms"]) == {"unlearned", "target", "retain"}
    cli(*words, "--out", "at-once")
    again = json.loads((data.parent / "at-once/audits/lira.json").read_text())
    assert [each["after"] for each in again["findings"]] == [each["after"] for each in record["findings"]]
