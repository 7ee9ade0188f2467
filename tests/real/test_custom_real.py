"""The signs of the benchmark custom on models that really memorised TOFU, or really never saw its forget set."""

from __future__ import annotations

import json

import pytest

import expunge

NUM = 100


@pytest.fixture(scope="module")
def measured(shared, tmp_path_factory):
    """The full and the retain-only stand-in, each measured with the retain-only one as retain model.

    Holdout rows are the forget questions with a wrong answer of the same form, which no model was trained on.
    """
    models = {name: shared / f"models/tofu-llama-4m-{name}" for name in ("full", "retain90")}
    data = shared / "data/tofu"
    for path in (*models.values(), data):
        if not path.exists():
            pytest.skip(f"{path} does not exist")
    folder = tmp_path_factory.mktemp("custom")
    rows = [json.loads(line) for line in (data / "forget10_perturbed.json").read_text().splitlines()][:NUM]
    kept = [json.loads(line) for line in (data / "retain90.json").read_text().splitlines()][:NUM]
    sets = {
        "forget": [{"question": row["question"], "answer": row["answer"]} for row in rows],
        "holdout": [{"question": row["question"], "answer": row["perturbed_answer"][0]} for row in rows],
        "retain": [{"question": row["question"], "answer": row["answer"]} for row in kept],
    }
    for name, content in sets.items():
        for i, row in enumerate(content):
            row["group"] = f"{i // 20}"
        (folder / f"{name}.json").write_text(json.dumps(content))
    config = {
        "benchmark": {"name": "custom", "generate": False},
        "data": {"name": "files", **{name: {"path": str(folder / f"{name}.json")} for name in sets}},
        "evaluate": {"bootstrap": 100},
    }

    def measure(name, retain_model=None, out=None):
        model = {"name": str(models[name]), "retain_model": retain_model}
        return expunge.evaluate({**config, "model": model}, out=out)

    measure("retain90", out=folder / "out")
    stored = str(folder / "out/results/model-custom.json")
    return {
        "full": measure("full", retain_model=stored),
        "retain90": measure("retain90", retain_model=stored, out=folder / "out"),
    }


def test_memorised_rows_are_extracted_and_unseen_ones_are_not(measured):
    """Extraction strength parts the models on the forget set and not on the retain set."""
    full, retain = (measured[name].headlines for name in ("full", "retain90"))
    assert full["forget_knowledge"].point > 0.5
    assert retain["forget_knowledge"].point < 0.2
    assert full["forget_knowledge"].low > retain["forget_knowledge"].high
    assert retain["retain_knowledge"].point > 0.5


def test_every_membership_score_finds_the_memorised_rows(measured):
    """High AUC is memorised: every score of the full model is near 1 and above that of the retain-only model."""
    for score in ("loss", "zlib", "min_k", "min_k_plus", "reference"):
        name = f"membership/{score}_auc"
        assert measured["full"].metrics[name].point > 0.9, score
        assert measured["full"].metrics[name].point > measured["retain90"].metrics[name].point + 0.1, score


def test_privleak_is_near_minus_100_before_unlearning(measured):
    assert measured["full"].headlines["privleak"].point < -70
    assert measured["retain90"].headlines["privleak"].point == 0.0


def test_losses_of_the_full_model_do_not_look_like_the_retain_models(measured):
    assert measured["full"].headlines["forget_agreement"].point < 1e-10
    assert measured["retain90"].headlines["forget_agreement"].point == 1.0
