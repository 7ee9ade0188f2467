"""TOFU from the hub: which configurations are asked for, and what a failure says. No network is used."""

import datasets
import pytest

from expunge.config.recipe import TofuData
from expunge.data.prepare import prepare_sets
from expunge.errors import DataError

FULL = [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(4000)]


def _with_variants(rows, num):
    return [
        {**row, "perturbed_answer": [f"Wrong {k}." for k in range(num)], "paraphrased_answer": "So."} for row in rows
    ]


HUB = {
    "forget01": FULL[3960:],
    "retain99": FULL[:3960],
    "forget01_perturbed": _with_variants(FULL[3960:], 5),
    "retain_perturbed": _with_variants(FULL[:400], 5),
    "real_authors_perturbed": _with_variants(FULL[:100], 3),
    "world_facts_perturbed": _with_variants(FULL[:117], 3),
}


def test_hub_configurations_and_revision(monkeypatch):
    asked = []

    def load_dataset(path, config, split, revision):
        asked.append((path, config, split, revision))
        return HUB[config]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sets = prepare_sets(TofuData(split="forget01", revision="v1"))
    assert {call[1] for call in asked} == set(HUB)
    assert {(path, split, revision) for path, _, split, revision in asked} == {("locuslab/TOFU", "train", "v1")}
    assert sets.forget.rows[0].id == "forget01/0"
    assert sets.forget.rows[0].group == "author/198"
    assert sets.evaluation["forget"].rows[0].perturbed_answers == tuple(f"Wrong {k}." for k in range(5))


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach 'locuslab/TOFU' on the Hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        prepare_sets(TofuData())
    assert "Couldn't reach" in caught.value.problem
    assert "more lines" not in caught.value.problem
    assert "data.path=" in caught.value.fix


def test_a_file_instead_of_a_folder(tmp_path):
    path = tmp_path / "forget10.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="is a file"):
        prepare_sets(TofuData(path=str(path)))


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        prepare_sets(TofuData(path=str(tmp_path / "absent")))
