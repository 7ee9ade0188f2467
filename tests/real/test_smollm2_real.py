"""The chat template, stop tokens and answers of SmolLM2-135M-Instruct, a really pretrained model."""

import os
from pathlib import Path

import pytest
import torch

from expunge.config.recipe import Model, Prompt
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.load import load_model, load_tokenizer
from expunge.probes.cache import ProbeCache
from expunge.probes.requests import GenerationRequest
from expunge.probes.session import Session, end_ids

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
TURN = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


@pytest.fixture(scope="module")
def folder():
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = Path(os.environ.get("EXPUNGE_SMOLLM2", cache / "expunge-models/smollm2-135m-instruct"))
    if not (folder / "model.safetensors").is_file():
        pytest.skip(
            f"{folder} has no model; make it with `python $EXPUNGE_SHARED/tools/fetch_smollm2.py {folder}`, or set "
            "EXPUNGE_SMOLLM2 to its folder"
        )
    return str(folder)


@pytest.fixture(scope="module")
def template(folder):
    return Template(load_tokenizer(folder), Prompt(), 512)


@pytest.mark.parametrize("answer", [ANSWER, "Paris", "1981", "Ça va, naïve 東京?", "two\n\nlines"])
def test_the_mask_covers_the_answer_and_its_end_token(template, answer):
    """The default system prompt is part of the prompt, in training as in generation."""
    encoded = template.encode(QUESTION, answer)
    tokenizer = template.tokenizer
    assert tokenizer.decode(encoded.targets, skip_special_tokens=False) == f"{answer}<|im_end|>"
    prompt = encoded.ids[: encoded.answer_start]
    assert tokenizer.decode(prompt, skip_special_tokens=False) == SYSTEM + TURN
    assert list(prompt) == template.prompt_ids(QUESTION)
    own = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert list(prompt) == list(own)


def test_a_system_prompt_replaces_the_default_one(template):
    brief = Template(template.tokenizer, Prompt(system="Be brief."), 512)
    assert brief.prompt_text(QUESTION) == f"<|im_start|>system\nBe brief.<|im_end|>\n{TURN}"


def test_it_answers_and_stops(folder, template):
    """Its greedy answer names Paris, and ends with the end of the turn, long before the limit."""
    model = load_model(folder, config=Model(name=folder), dtype=torch.float32)
    assert end_ids(model, template) == [template.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    sets = Sets("", RowSet("forget", ()), None)
    session = Session(model, sets, template, 1024, ProbeCache(None, None), "SmolLM2")
    request = GenerationRequest("questions", 0, QUESTION, 60)
    answer = session.generate([request])[request.key]
    assert "Paris" in answer
    assert len(template.text_ids(answer)) < 50
