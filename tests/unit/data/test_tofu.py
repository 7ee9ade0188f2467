"""TOFU from a simulated hub and from folders: requested configurations, holdout rows and errors."""

import json

import datasets
import pytest

from expunge.config.recipe import TofuData
from expunge.data.prepare import prepare_sets
from expunge.data.tofu import split_sizes
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


@pytest.fixture
def listed(monkeypatch):
    """Configuration names that the hub lists; tests may change them."""
    names = list(HUB)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path, revision: names)
    return names


def test_hub_configurations_and_revision(monkeypatch, listed):
    calls = []

    def load_dataset(path, config, split, revision):
        calls.append((path, config, split, revision))
        return HUB[config]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sets = prepare_sets(TofuData(split="forget01", revision="v1"))
    assert {call[1] for call in calls} == set(HUB)
    assert {(path, split, revision) for path, _, split, revision in calls} == {("locuslab/TOFU", "train", "v1")}
    assert sets.forget.rows[0].id == "forget01/0"
    assert sets.forget.rows[0].group == "author/198"
    assert sets.evaluation["forget"].rows[0].perturbed_answers == tuple(f"Wrong {k}." for k in range(5))
    assert sets.holdout is None


def test_holdout_rows_from_the_hub(monkeypatch, listed):
    """Rows after the first 4000 belong to further authors, from number 200 on, with 20 questions each."""
    holdout = [{"question": f"New {i}?", "answer": f"Unseen {i}."} for i in range(40)]
    listed.append("holdout01")
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config, **_: {**HUB, "holdout01": holdout}[config])
    loaded = prepare_sets(TofuData(split="forget01")).holdout
    assert [row.answer for row in loaded] == [row["answer"] for row in holdout]
    assert [row.group for row in loaded] == ["author/200"] * 20 + ["author/201"] * 20
    holdout[3] = FULL[7]
    with pytest.raises(DataError, match=r"row 4 of holdout01 .*'Question 7\?'.* is also a forget or retain row"):
        prepare_sets(TofuData(split="forget01"))


def test_first_authors_of_the_retain_set(monkeypatch, listed):
    """25 authors with 20 rows each; those that are measured are the first 20."""
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config, **_: HUB[config])
    config = TofuData(split="forget01", retain_authors=25)
    sets = prepare_sets(config)
    assert [row.question for row in sets.retain] == [row["question"] for row in FULL[:500]]
    assert len(sets.forget) == 40
    assert {row.group for row in sets.evaluation["retain"]} == {f"author/{i}" for i in range(20)}
    assert split_sizes(config) == {"forget": 40, "retain": 500}
    assert split_sizes(TofuData(split="forget01")) == {"forget": 40, "retain": 3960}
    with pytest.raises(DataError, match=r"retain_authors is 185, but retain90 has 180 authors"):
        prepare_sets(TofuData(split="forget10", retain_authors=185))


def test_unlistable_hub_gives_a_note_and_no_holdout(monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", lambda path, config, **_: HUB[config])
    monkeypatch.setattr(datasets, "get_dataset_config_names", unreachable)
    assert prepare_sets(TofuData(split="forget01")).holdout is None
    assert "cannot be listed (ConnectionError)" in capsys.readouterr().err


def test_holdout_rows_from_a_folder(tmp_path):
    for stem, rows in {**HUB, "holdout01": [{"question": "New?", "answer": "Unseen."}]}.items():
        (tmp_path / f"{stem}.json").write_text("\n".join(json.dumps(row) for row in rows))
    assert [row.id for row in prepare_sets(TofuData(split="forget01", path=str(tmp_path))).holdout] == ["holdout01/0"]
    (tmp_path / "holdout01.json").unlink()
    assert prepare_sets(TofuData(split="forget01", path=str(tmp_path))).holdout is None


def test_unreachable_hub_raises(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach 'locuslab/TOFU' on the Hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as raised:
        prepare_sets(TofuData())
    assert "Couldn't reach" in raised.value.problem
    assert "more lines" not in raised.value.problem
    assert "data.path=" in raised.value.fix


def test_file_instead_of_a_folder_raises(tmp_path):
    path = tmp_path / "forget10.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="is a file"):
        prepare_sets(TofuData(path=str(path)))


def test_missing_folder_raises(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        prepare_sets(TofuData(path=str(tmp_path / "absent")))
