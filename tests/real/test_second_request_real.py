"""A second deletion request on the LoRA checkpoint of the first: what was deleted first stays deleted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import expunge
from expunge.config.load import load_recipe
from expunge.records import BenchmarkResult
from expunge.rundir import read_record
from expunge.runs.results import read_rows


@pytest.fixture(scope="module")
def field(shared) -> Path:
    """Folder with the two requests."""
    folder = shared / "field"
    if not (folder / "first_request.yaml").is_file() or not (shared / "models/tofu-llama-4m-full").is_dir():
        pytest.skip(f"{shared} has no folders field and models/tofu-llama-4m-full")
    return folder


def overrides_of(field: Path, name: str, model: Path, rows: tuple[str, str], **settings) -> list[str]:
    """Overrides of the recipe of the first request."""
    lora = json.dumps({"name": str(model), "device": "cpu", "lora": {"rank": 4}, **settings})
    forget, retain = (str(field / f"{stem}.jsonl") for stem in rows)
    return [f"name={name}", f"model={lora}", f"data.forget.path={forget}", f"data.retain.path={retain}"]


@pytest.fixture(scope="module")
def first(field, tmp_path_factory) -> Path:
    """Folder of the run of the first request."""
    model = field.parent / "models/tofu-llama-4m-full"
    overrides = overrides_of(field, "first", model, ("plain6", "retain6"))
    summary = expunge.run(load_recipe(field / "first_request.yaml", overrides), runs=tmp_path_factory.mktemp("runs"))
    assert summary.headlines["target"]["forget_knowledge"].point > 0.9
    assert summary.headlines["unlearned"]["forget_knowledge"].point < 0.2
    return Path(summary.folder)


def knowledge(folder: Path, rows: Path) -> float:
    result = expunge.evaluate(
        {
            "model": str(folder),
            "benchmark": {"name": "custom", "generate": False},
            "data": {"name": "files", "forget": {"path": str(rows)}},
            "evaluate": {"bootstrap": 0},
        }
    )
    return result.headlines["forget_knowledge"].point


@pytest.mark.parametrize("settings", [{}, {"adapter": "stacked"}], ids=["merged", "stacked"])
def test_the_first_deletion_stays(field, first, settings, tmp_path):
    """Knowledge of the first request was .10 after it, and 1.00 after the second, whose run began from the base."""
    overrides = overrides_of(field, "second", first / "checkpoint", ("second_forget", "second_retain"), **settings)
    summary = expunge.run(load_recipe(field / "first_request.yaml", overrides), runs=tmp_path)
    checkpoint = Path(summary.folder) / "checkpoint"
    assert summary.headlines["target"]["forget_knowledge"].point > 0.9
    assert summary.headlines["unlearned"]["forget_knowledge"].point < 0.3
    assert knowledge(checkpoint, field / "plain6.jsonl") < 0.2
    assert knowledge(checkpoint, field / "second_forget.jsonl") < 0.3
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((field.parent / "models/tofu-llama-4m-full").resolve())
    # As plain transformers loads it, wherever the process is started.
    result = read_record(Path(summary.folder) / "results/unlearned-custom-000022.json", BenchmarkResult)
    rows = read_rows(Path(summary.folder) / result.samples)
    assert plain_nll(checkpoint, rows) == pytest.approx([row["nll"] for row in rows], rel=1e-4)


def plain_nll(folder: Path, rows: list[dict]) -> list[float]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    losses = []
    for row in rows:
        chat = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
        full = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logp = model(torch.tensor([full])).logits[0, :-1].log_softmax(-1)
        losses.append(-float(logp.gather(-1, torch.tensor(full[1:])[:, None])[start - 1 :].mean()))
    return losses


def test_an_adapter_made_elsewhere(field, tmp_path):
    """The adapter of `make_adapter.py`, with its merged copy in the same folder or in another."""
    base, adapter = field.parent / "models/tofu-llama-4m-full", tmp_path / "adapter"
    for merged in (tmp_path / "merged", adapter):
        words = [field / "make_adapter.py", base, adapter, merged]
        subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)
        values = [knowledge(folder, field / "plain6.jsonl") for folder in (adapter, tmp_path / "merged")]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
        overrides = overrides_of(field, "elsewhere", adapter, ("plain6", "retain6"))
        recipe = load_recipe(field / "first_request.yaml", [*overrides, "train.epochs=null", "train.steps=1"])
        summary = expunge.run(recipe, runs=tmp_path / "runs")
        assert summary.headlines["target"]["forget_knowledge"].point == pytest.approx(values[1], rel=1e-4)
