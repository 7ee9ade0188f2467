from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from expunge.report.card import write_card
from expunge.report.load import load_run

Make = Callable[..., Path]


def parts(path: Path) -> tuple[dict, str]:
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_card(make_run: Make) -> None:
    folder = make_run()
    path = write_card(folder / "checkpoint", load_run(folder))
    assert path == folder / "checkpoint/README.md"
    data, body = parts(path)
    assert data["library_name"] == "transformers"
    assert data["tags"] == ["expunge", "machine-unlearning", "simnpo"]
    assert "license" not in data
    assert "base_model" not in data
    (model,) = data["model-index"]
    values = {m["type"]: m["value"] for each in model["results"] for m in each["metrics"]}
    assert values == {"forget_quality": 0.51, "model_utility": 0.604}
    assert "**Forgotten as far as this test can see" in body
    assert "0.604 [0.584, 0.624]" in body
    assert "A p-value is no proof of absence" in body
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["method"]["beta"] == 4.5


def test_base_model_and_license_when_known(make_run: Make) -> None:
    folder = make_run(model={"name": "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"})
    data, _ = parts(write_card(folder, load_run(folder), license="llama3.2"))
    assert data["base_model"] == "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"
    assert data["license"] == "llama3.2"


def test_folders_of_the_machine_stay_private(make_run: Make, tmp_path: Path) -> None:
    home = str(tmp_path / "private" / "my-model")
    folder = make_run(model={"name": home, "retain_model": home + "-retain"})
    text = write_card(folder, load_run(folder)).read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "name: my-model" in text


def test_a_local_folder_that_looks_like_a_hub_id_is_no_base_model(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    folder = make_run(model={"name": "models/mine"})
    assert "base_model" not in parts(write_card(folder, load_run(folder)))[0]


def test_a_run_without_numbers(make_run: Make) -> None:
    folder = make_run(finished=False, published={})
    data, body = parts(write_card(folder, load_run(folder)))
    assert "model-index" not in data
    assert "there is no verdict yet" in body
    assert "unfinished" in body
