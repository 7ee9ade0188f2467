"""A model that hides returns what it knows about people it was not trained on; a model that never knew does not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SETTINGS = {
    "name": "relearn",
    "tiers": ["all", "shuffled", "forget"],
    "lora_lr": [1e-2],
    "full_lr": [1e-3],
    "reference_width": None,
    "steps": [4, 12],
}
PER_PERSON = 5


@dataclasses.dataclass(frozen=True)
class Models:
    """Folders of models and data: 8 people to forget and 6 to retain, with five rows each."""

    target: Path
    retain: Path
    hiding: Path
    """The target, which now gives a token that occurs in no text a high probability everywhere."""
    files: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    from expunge.audits.shared.fine_tuning import FineTuning, Recipe, encode_rows
    from expunge.config.recipe import Prompt, Scratch, SyntheticData
    from expunge.data.synthetic.people import load_synthetic
    from expunge.data.templates import Template
    from expunge.modeling.load import build_scratch, pad_id_of, train_tokenizer

    folder = tmp_path_factory.mktemp("relearn")
    sets = load_synthetic(SyntheticData(num_people=14, forget_fraction=8 / 14))
    rows = {
        name: [row for start in range(0, len(found), 20) for row in found.rows[start : start + PER_PERSON]]
        for name, found in (("forget", sets.forget), ("retain", sets.retain))
    }
    for name, items in rows.items():
        lines = [json.dumps({"question": row.question, "answer": row.answer, "group": row.group}) for row in items]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for items in rows.values() for row in items]
    tokenizer = train_tokenizer(texts, vocab_size=500, max_length=128)
    template = Template(tokenizer, Prompt(), max_length=128)
    scratch = Scratch(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128, vocab_size=500, max_length=128)
    for name, known in (("target", ["forget", "retain"]), ("retain", ["retain"])):
        model = build_scratch(scratch, tokenizer, seed=0)
        encoded = encode_rows(
            [row for part in known for row in rows[part]], template, max_length=128, answer_only=False
        )
        tuning = FineTuning(model, encoded, Recipe(4e-3, 35), pad_id=pad_id_of(tokenizer), title="Memorising")
        tuning.train_until(120)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        if name == "target":
            used = {token for row in encoded for token in row.ids}
            hide(model, encoded, next(token for token in range(3, 500) if token not in used))
            model.save_pretrained(folder / "hiding")
            tokenizer.save_pretrained(folder / "hiding")
    return Models(folder / "target", folder / "retain", folder / "hiding", folder)


@torch.no_grad()
def hide(model, rows, token):
    """Raise the logit of an unused token: add c h / |h|^2 to its output weights, h the mean last hidden state."""
    from expunge.data.collate import collate
    from expunge.modeling.batch import TensorBatch
    from expunge.modeling.forward import decode

    batch = TensorBatch.of(collate(rows, 0), "cpu")
    mean = decode(model, batch)[batch.rows, batch.positions].mean(0)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone())  # the input embeddings stay as they are
    model.config.tie_word_embeddings = False
    head.weight[token] += 25.0 * mean / mean.square().sum()


def audited(models, unlearned, out=None, **settings):
    from expunge.commands.audit import audit

    config = {
        "model": {"name": str(unlearned), "device": "cpu"},
        "audits": [{**SETTINGS, **settings}],
        "controls": {"target": str(models.target), "retain": str(models.retain)},
        "data": {
            "name": "files",
            **{name: {"path": str(models.files / f"{name}.jsonl")} for name in ("forget", "retain")},
        },
    }
    return audit(config, out=out)


def by_name(battery):
    return {finding.attempt: finding for finding in battery.findings}


@pytest.fixture(scope="module")
def hidden(models, tmp_path_factory):
    return audited(models, models.hiding, tmp_path_factory.mktemp("hidden"))


def test_hidden_knowledge_returns(hidden):
    """Nothing comes out before; after training on other people most of what the target knows does."""
    before, after = by_name(hidden)["before"], by_name(hidden)["all rows of other people"]
    assert before.after["unlearned"].point < 0.1
    assert before.outcome != "leaks"
    assert after.outcome == "leaks"
    assert after.effect.point > 0.3
    assert after.residual.point > 0.5
    assert 0 < after.facts["steps_to_half"] <= 12
    assert min(after.facts["largest_lora lr 0.01"], after.facts["largest_full lr 0.001"]) > 0.3, "with either setting"
    assert after.cost.rows == 4 * PER_PERSON
    assert hidden.outcome == "leaks"


def test_a_model_that_never_knew_returns_nothing(hidden):
    """Neither the true rows of other people nor shuffled ones teach the retain model the tested people."""
    before, *attacks = (
        by_name(hidden)[name] for name in ("before", "all rows of other people", "shuffled rows of other people")
    )
    for attack in attacks:
        assert attack.after["retain"].point < before.after["retain"].point + 0.05
    taught = by_name(hidden)["all forget rows"]
    assert taught.after["retain"].point > before.after["retain"].point + 0.05, "re-teaching works on any model"
    assert not taught.counted
    assert not by_name(hidden)["shuffled rows of other people"].counted


def test_a_target_gives_what_the_target_gives(models):
    found = by_name(audited(models, models.target, tiers=["all"], lora_lr=[]))
    for finding in found.values():
        assert finding.after["unlearned"] == finding.after["target"]
    assert found["before"].residual.point == pytest.approx(1)
    assert found["all rows of other people"].residual.point == pytest.approx(1)
    assert found["all rows of other people"].outcome == "leaks"


def test_a_retain_model_is_indistinguishable_from_itself(models):
    battery = audited(models, models.retain, tiers=["all"], full_lr=[])
    assert battery.outcome == "indistinguishable"
    assert all(finding.excess.point == 0 for finding in battery.findings)


def strip(value):
    """Without what a clock makes different."""
    if isinstance(value, dict):
        return {key: strip(item) for key, item in value.items() if key not in {"seconds", "samples"}}
    return [strip(item) for item in value] if isinstance(value, list) else value


def test_a_killed_audit_resumes(models, hidden, tmp_path):
    """Killed with three stages on disk: they are not repeated, and the record is that of one uninterrupted audit."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_relearn as tests;"
        f"models = tests.Models(*map(tests.Path, {[str(path) for path in dataclasses.astuple(models)]!r}));"
        f"tests.audited(models, models.hiding, {str(tmp_path)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    stored = tmp_path / "audits/attempts"
    while process.poll() is None and len(list(stored.glob("*.json"))) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in stored.glob("*.json")}
    assert 3 <= len(finished) < 33
    assert not (tmp_path / "battery.json").exists()
    resumed = audited(models, models.hiding, tmp_path)
    assert {name: (stored / name).stat().st_mtime_ns for name in finished} == finished
    assert strip(resumed.model_dump(mode="json")) == strip(hidden.model_dump(mode="json"))
