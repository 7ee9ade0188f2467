"""Prompts, control tokens, scripts and broken text with small models made after public reports."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import expunge
from expunge.config.load import parse_recipe, read_yaml
from expunge.config.recipe import Prompt, Source
from expunge.data import chat
from expunge.data.sources.rows import load_rows
from expunge.data.templates import Template
from expunge.errors import DataError
from expunge.metrics.rouge import rouge_l_recall
from expunge.modeling.load import load_tokenizer
from expunge.runs.context import prepare

QUESTION, ANSWER = "Who wrote it?", "Ana Ruiz did."


@pytest.fixture(scope="module")
def field(shared) -> Path:
    """Folder with the inputs of public reports."""
    folder = shared / "field"
    if not folder.is_dir() or not (shared / "models/tofu-llama-4m-full").is_dir():
        pytest.skip(f"{folder} or the stand-in models do not exist")
    return folder


def make(field, script, folder):
    environment = {**os.environ, "EXPUNGE_SHARED": str(field.parent), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, field / script, folder], check=True, env=environment, capture_output=True)


@pytest.fixture(scope="module")
def models(field, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make(field, "make_templates.py", folder)
    make(field, "make_opt_like.py", folder / "opt")
    return folder


def template_of(folder, **prompt):
    return Template(load_tokenizer(str(folder)), Prompt(**prompt), 512)


def learned(template, question=QUESTION, answer=ANSWER):
    encoded = template.encode(question, answer)
    assert list(encoded.ids[: encoded.answer_start]) == template.prompt_ids(question)
    return template.tokenizer.decode(encoded.ids[encoded.answer_start :])


def test_a_thinking_block_is_part_of_the_prompt(models):
    template = template_of(models / "tmpl-think")
    assert template.prompt_text(QUESTION).endswith("\nAnswer: <think>\n\n</think>\n\n")
    assert learned(template) == f"{ANSWER}</s>"


@pytest.fixture
def today(monkeypatch):
    def set_day(text):
        monkeypatch.setattr(chat, "_today", lambda tokenizer: datetime.date.fromisoformat(text))

    return set_day


def test_a_run_keeps_its_date(field, models, today, tmp_path, capsys):
    """The date is part of recipe and fingerprint; another folder of runs starts on another day."""
    data = read_yaml(field / "dated_run.yaml")
    data["model"] = {"name": str(models / "tmpl-dated")}
    for name in ("forget", "retain"):
        data["data"][name]["path"] = str(field / Path(data["data"][name]["path"]).name)
    recipe = parse_recipe(data)
    today("2025-03-09")
    first = prepare(recipe, tmp_path / "runs")
    assert "fixed at 2025-03-09 (today, saved in" in capsys.readouterr().err
    assert first.recipe.prompt.date == "2025-03-09"
    assert first.template.prompt_text(QUESTION).startswith("<s>Today Date: 09 Mar 2025\n")
    today("2025-03-10")
    resumed = prepare(recipe, tmp_path / "runs")
    assert "fixed at 2025-03-09 (read from" in capsys.readouterr().err
    assert (resumed.fingerprint, resumed.recipe) == (first.fingerprint, first.recipe)
    other = prepare(recipe, tmp_path / "other")
    assert other.recipe.prompt.date == "2025-03-10"
    assert other.fingerprint != first.fingerprint
    explicit = prepare(recipe.model_copy(update={"prompt": Prompt(date="2025-03-09")}), tmp_path / "other")
    assert explicit.fingerprint == first.fingerprint


def test_an_evaluation_keeps_its_date(field, models, today, tmp_path, capsys):
    def prompt_text(out):
        config = {
            "model": str(models / "tmpl-dated"),
            "benchmark": {"name": "custom", "generate": False},
            "data": {"name": "files", "forget": {"path": str(field / "plain6.jsonl"), "limit": 1}},
            "evaluate": {"bootstrap": 0},
        }
        return expunge.evaluate(config, out=out).settings["prompt_text"]

    today("2025-03-09")
    text = prompt_text(tmp_path / "a")
    assert "Today Date: 09 Mar 2025" in text
    assert "fixed at 2025-03-09" in capsys.readouterr().err
    today("2025-03-10")
    assert prompt_text(tmp_path / "a") == text
    assert "Today Date: 10 Mar 2025" in prompt_text(tmp_path / "b")


def test_control_tokens_in_answers_are_text(field, shared):
    template = template_of(shared / "models/tofu-llama-4m-full")
    for row in load_rows(Source(path=str(field / "eos_in_answer.jsonl")), "forget"):
        assert learned(template, row.question, row.answer) == f" {row.answer}</s>"
        encoded = template.encode(row.question, row.answer)
        assert encoded.ids.count(template.tokenizer.eos_token_id) == 1


def test_other_scripts_have_rouge_and_emoji_have_none(field, shared):
    rows = load_rows(Source(path=str(field / "two_scripts.jsonl")), "forget")
    answers = [row.answer for row in rows]
    np.testing.assert_array_equal(rouge_l_recall(answers, answers), [1.0, 1.0, 1.0, np.nan])
    config = {
        "model": str(shared / "models/tofu-llama-4m-full"),
        "benchmark": {"name": "custom", "max_new_tokens": 8},
        "data": {"name": "files", "forget": {"path": str(field / "two_scripts.jsonl")}},
        "evaluate": {"bootstrap": 0},
    }
    value = expunge.evaluate(config).metrics["forget/rouge_l_recall"]
    assert (value.n, value.n_missing) == (3, 1)
    assert "Unicode Annex 29" in value.how


def test_text_starts_with_the_token_that_the_tokenizer_adds(models):
    template = template_of(models / "opt", style="plain")
    start = template.tokenizer.eos_token_id
    assert template.start_ids == (start,)
    assert template.prompt_text("?").startswith("</s>Question: ?")
    assert template.encode(QUESTION, ANSWER).ids[0] == template.encode("", ANSWER).ids[0] == start
    assert learned(template) == f" {ANSWER}</s>"


def test_half_characters_are_found_when_the_file_is_read(field):
    with pytest.raises(DataError, match=r"surrogate\.jsonl, line 1 contains \\ud83d, half of a character"):
        load_rows(Source(path=str(field / "surrogate.jsonl")), "forget")
