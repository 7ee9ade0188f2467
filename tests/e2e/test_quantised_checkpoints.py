"""Quantised checkpoints can be measured; check, plan, dry run and run refuse to train them with the same words."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

SETTINGS = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def copy(model: Path, folder: Path, **config) -> Path:
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.fixture(params=["full model", "base of an adapter"])
def quantised(request, tiny_model, tmp_path) -> Path:
    """A folder whose config names quantised weights, or an adapter on it."""
    base = copy(tiny_model, tmp_path / "quantised", quantization_config=SETTINGS)
    if request.param == "full model":
        return base
    import peft

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    adapter.peft_config["default"].base_model_name_or_path = str(base)
    adapter.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_all_commands_say_the_same(cli, recipe_file, quantised):
    said = set()
    for words in (["run"], ["run", "--dry-run"], ["check"], ["plan"]):
        outcome = cli(words[0], recipe_file, f"model.name={quantised}", *words[1:])
        assert outcome.code == 2
        text = " ".join((outcome.err + outcome.out).split())
        start, end = text.index("the weights of"), text.index("and save it.")
        said.add(text[start:end])
    assert len(said) == 1
    assert "are quantised (bitsandbytes) and can only be measured" in said.pop()
    assert not Path("runs").exists()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_measuring_names_the_missing_package(cli, quantised, recipe_file):
    outcome = cli("evaluate", quantised, "--benchmark", "custom", "--data", recipe_file.parent / "forget.jsonl")
    assert outcome.code == 2
    text = " ".join(outcome.err.split())
    assert "requires bitsandbytes" in text
    assert "Install what the message names" in text


def test_a_quantised_model_is_measured(cli, tiny_model, recipe_file, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = transformers.BitsAndBytesConfig(load_in_8bit=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model, quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "int8")
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "int8")
    values = []
    for folder in (tmp_path / "int8", tiny_model):
        words = ["--benchmark", "custom", "--data", recipe_file.parent / "forget.jsonl", "--set", "generate=false"]
        outcome = cli("evaluate", folder, *words, "--json")
        assert outcome.code == 0, outcome.err
        values.append(json.loads(outcome.out)["record"]["metrics"]["forget/perplexity"]["point"])
    assert values[0] == pytest.approx(values[1], rel=0.01)
    assert values[0] != values[1]
