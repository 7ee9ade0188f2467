"""Deletion requests on TOFU stand-ins: what was deleted first stays deleted, and a relapse is noticed."""

import json
from pathlib import Path

import pytest

from expunge.commands.requests.add import add
from expunge.commands.requests.apply import apply
from expunge.commands.requests.certificate import certify
from expunge.commands.requests.init import init
from expunge.commands.requests.ledger import Ledger
from expunge.commands.requests.rows import read_row_file
from expunge.commands.requests.status import status
from expunge.commands.requests.verify import verify
from expunge.config.load import load_recipe

PEOPLE = {"case-1": ("Hsiao Yun-Hwa", "author/180"), "case-2": ("Carmen Montenegro", "author/181")}


def open_ledger(folder: Path, shared: Path, *overrides: str) -> Path:
    recipe = load_recipe(
        "tofu-forget10-npo",
        [
            f"model={json.dumps({'name': str(shared / 'models/tofu-llama-4m-full'), 'device': 'cpu'})}",
            f"data.path={shared / 'data/tofu'}",
            "prompt={style: chat}",
            "train={lr: 5e-4, epochs: 8, batch_size: 16}",
            "method={name: npo, beta: 0.1, retain_weight: 6}",
            "evaluate={benchmarks: [{name: custom, limit: 20, generate: false}], before: false, every_epoch: false}",
            *overrides,
        ],
    )
    init(folder, recipe, utility_rows=40)
    for name, (person, _) in PEOPLE.items():
        add(folder, name, persons=[person])
    return folder


@pytest.fixture
def stand_ins(shared) -> Path:
    if not (shared / "models/tofu-llama-4m-full").is_dir() or not (shared / "data/tofu").is_dir():
        pytest.skip(f"{shared} has no folders models/tofu-llama-4m-full and data/tofu")
    return shared


@pytest.mark.slow
def test_two_requests_stay_forgotten(stand_ins, tmp_path):
    """The person is found by name; the first request stays forgotten after the second; both certificates are valid."""
    folder = open_ledger(tmp_path / "requests", stand_ins)
    for name, (_, author) in PEOPLE.items():
        rows = read_row_file(Ledger(folder).rows_file(name))
        assert (len(rows), {row.group for row in rows}) == (20, {author})
        assert all(len(row.perturbed_answers) == 5 for row in rows)
    assert list(apply(folder)) == ["case-1", "case-2"]
    (measured,) = status(folder, measure=True).measured
    for name in PEOPLE:
        assert measured.requests[name].before.point > 0.9
        assert measured.requests[name].forgotten is True
        path = tmp_path / f"{name}.json"
        certify(folder, name, path)
        assert {item.status for item in verify(path, ledger=folder) if item.name != "signature"} == {"ok"}


@pytest.mark.slow
def test_a_request_that_is_not_forgotten_is_noticed(stand_ins, tmp_path):
    """Control: a learning rate that changes nothing leaves all knowledge, and a retrain is due."""
    folder = open_ledger(tmp_path / "requests", stand_ins, "train.lr=1e-9")
    apply(folder, limit=1)
    (measured,) = status(folder, measure=True).measured
    assert measured.requests["case-1"].remaining.point > 0.9
    assert measured.requests["case-1"].forgotten is False
    assert measured.utility.point == pytest.approx(measured.utility_before.point, abs=0.01)
    assert len(measured.due) == 1
    assert measured.due[0].startswith("request 'case-1' is not forgotten")
