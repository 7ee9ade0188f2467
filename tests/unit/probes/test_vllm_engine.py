"""vLLM behind the same probe: what it is asked, and what becomes of its answers. The package itself is played."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from expunge.config.recipe import Prompt, Recipe, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import MissingExtraError
from expunge.modeling.load import build_scratch, load_model, train_tokenizer
from expunge.probes.requests import GenerationRequest
from expunge.probes.vllm_engine import VllmEngine
from expunge.runs.evaluator import Evaluator


class Played:
    """Answers every prompt with its length, its seed (or 0) and the end token; keeps what it was asked."""

    made: ClassVar[list] = []
    asked: ClassVar[list] = []

    def __init__(self, **settings):
        self.made.append(settings)

    def generate(self, prompts, settings, use_tqdm):
        self.asked.append((prompts, settings))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(len(p["prompt_token_ids"]), s.seed or 0, 2))])
            for p, s in zip(prompts, settings, strict=True)
        ]


@pytest.fixture
def vllm(monkeypatch):
    Played.made, Played.asked = [], []
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Played, SamplingParams=SimpleNamespace))
    return Played


def test_prompts_budgets_and_ends(vllm):
    """A prompt that fills the context of 8 is not asked; the budget stays inside the context; the end token goes."""
    engine = VllmEngine("folder", "bfloat16", 8)
    assert not vllm.made
    prompts = [[5, 6, 7], list(range(8)), [5] * 6]
    assert engine.generate(prompts, max_new_tokens=[9, 9, 9], eos_ids=[2]) == [[3, 0], None, [6, 0]]
    assert vllm.made == [{"model": "folder", "dtype": "bfloat16", "max_model_len": 8, "skip_tokenizer_init": True}]
    ((asked, settings),) = vllm.asked
    assert asked == [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [5] * 6}]
    assert [each.max_tokens for each in settings] == [5, 2]
    assert settings[0].temperature == 0.0
    assert settings[0].seed is None


def test_each_draw_has_its_own_seed(vllm):
    engine = VllmEngine("folder", "float32", 8)
    found = engine.generate([[5], [5]], max_new_tokens=[3, 3], eos_ids=[2], temperature=0.7, seeds=[11, 12])
    assert found == [[1, 11], [1, 12]]


def test_evaluator_asks_it_for_answers_and_remembers_them_apart(vllm, tmp_path):
    tokenizer = train_tokenizer(["Who wrote it? Nobody."] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    build_scratch(scratch, tokenizer, seed=0).save_pretrained(tmp_path / "model")
    model = load_model(str(tmp_path / "model"), config=SimpleNamespace(attention="sdpa", trust_remote_code=False))
    sets = Sets("made", RowSet("forget", ()), None)
    request = GenerationRequest("s", 0, "Who?", 4)
    said = {}
    for engine in ("torch", "vllm"):
        evaluator = Evaluator(sets, Template(tokenizer, Prompt(), 64), 4096, cache=tmp_path, engine=engine)
        said[engine] = evaluator.session(model, "it").generate([request])
    assert vllm.made[0]["model"] == str(tmp_path / "model")
    assert vllm.made[0]["dtype"] == "float32"
    prompt = Template(tokenizer, Prompt(), 64).prompt_ids("Who?")
    assert said["vllm"]["s", 0, "answer"] == tokenizer.decode([len(prompt), 0], skip_special_tokens=True).strip()
    assert said["vllm"] != said["torch"]


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match="vllm"):
        VllmEngine("folder", "float32", 8)


def test_a_run_refuses_it():
    recipe = {
        "name": "r",
        "model": {"name": "org/model"},
        "data": {"name": "synthetic"},
        "method": "gradascent",
        "train": {"steps": 1, "lr": 1e-3},
        "evaluate": {"engine": "vllm"},
    }
    with pytest.raises(ValueError, match="no effect in a run"):
        Recipe.model_validate(recipe)
