"""The vLLM engine: the inputs it passes to vLLM and the outputs it returns, with a fake vllm package."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from expunge.config.recipe import Measure, Prompt, Recipe, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import MissingExtraError
from expunge.modeling.load import build_scratch, load_model, train_tokenizer
from expunge.probes.requests import GenerationRequest
from expunge.probes.vllm_engine import VllmEngine
from expunge.runs.evaluator import Evaluator


class FakeLLM:
    """Answers every prompt with its length, its seed (or 0) and the end token, and records its inputs."""

    created: ClassVar[list] = []
    calls: ClassVar[list] = []

    def __init__(self, **settings):
        self.created.append(settings)

    def generate(self, prompts, settings, use_tqdm):
        self.calls.append((prompts, settings))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(len(p["prompt_token_ids"]), s.seed or 0, 2))])
            for p, s in zip(prompts, settings, strict=True)
        ]


@pytest.fixture
def vllm(monkeypatch):
    FakeLLM.created, FakeLLM.calls = [], []
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace))
    return FakeLLM


def test_prompts_budgets_and_end_tokens(vllm):
    """A prompt that fills the context of 8 is skipped; budgets are limited by the context; end tokens are removed."""
    engine = VllmEngine("folder", "bfloat16", 8)
    assert not vllm.created
    prompts = [[5, 6, 7], list(range(8)), [5] * 6]
    assert engine.generate(prompts, max_new_tokens=[9, 9, 9], eos_ids=[2]) == [[3, 0], None, [6, 0]]
    assert vllm.created == [{"model": "folder", "dtype": "bfloat16", "max_model_len": 8, "skip_tokenizer_init": True}]
    ((inputs, settings),) = vllm.calls
    assert inputs == [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [5] * 6}]
    assert [sampling.max_tokens for sampling in settings] == [5, 2]
    assert settings[0].temperature == 0.0
    assert settings[0].seed is None


def test_each_sample_has_its_own_seed(vllm):
    engine = VllmEngine("folder", "float32", 8)
    answers = engine.generate([[5], [5]], max_new_tokens=[3, 3], eos_ids=[2], temperature=0.7, seeds=[11, 12])
    assert answers == [[1, 11], [1, 12]]


def test_evaluator_generates_with_vllm_and_caches_separately(vllm, tmp_path):
    tokenizer = train_tokenizer(["Who wrote it? Nobody."] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    build_scratch(scratch, tokenizer, seed=0).save_pretrained(tmp_path / "model")
    model = load_model(str(tmp_path / "model"), config=SimpleNamespace(attention="sdpa", trust_remote_code=False))
    sets = Sets("test", RowSet("forget", ()), None)
    request = GenerationRequest("s", 0, "Who?", 4)
    answers = {}
    for engine in ("torch", "vllm"):
        evaluator = Evaluator(
            sets, Template(tokenizer, Prompt(), 64), Measure(batch_tokens=4096, engine=engine), cache=tmp_path
        )
        answers[engine] = evaluator.session(model, "model").generate([request])
    assert vllm.created[0]["model"] == str(tmp_path / "model")
    assert vllm.created[0]["dtype"] == "float32"
    prompt = Template(tokenizer, Prompt(), 64).prompt_ids("Who?")
    assert answers["vllm"]["s", 0, "answer"] == tokenizer.decode([len(prompt), 0], skip_special_tokens=True).strip()
    assert answers["vllm"] != answers["torch"]


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match="vllm"):
        VllmEngine("folder", "float32", 8)


def test_a_run_rejects_the_engine():
    recipe = {
        "name": "r",
        "model": {"name": "org/model"},
        "data": {"name": "synthetic"},
        "method": "gradascent",
        "train": {"steps": 1, "lr": 1e-3},
        "evaluate": {"engine": "vllm"},
    }
    with pytest.raises(ValueError, match="vllm cannot be used in a run"):
        Recipe.model_validate(recipe)
