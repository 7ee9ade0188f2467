"""The day that a chat template prints is fixed once per folder of runs, recorded, and used again."""

import datetime

import pytest

from expunge.config.recipe import Prompt
from expunge.data import chat
from expunge.data.templates import Template
from expunge.modeling import tokenizers
from expunge.modeling.load import CHAT_TEMPLATE, train_tokenizer
from expunge.modeling.tokenizers import fix_date


@pytest.fixture
def notes(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(tokenizers, "note", messages.append)
    return messages


@pytest.fixture
def dated(monkeypatch):
    """`dated(day, ...)`: a template that prints the date, made on that day."""
    tokenizer = train_tokenizer([""], 259, 64)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE

    def make(day, **prompt):
        monkeypatch.setattr(chat, "_today", lambda tokenizer: datetime.date.fromisoformat(day))
        return Template(tokenizer, Prompt(**prompt), 64)

    return make


def test_the_first_day_is_saved_and_used_again(dated, notes, tmp_path):
    assert fix_date(dated("2025-03-09"), tmp_path).date == "2025-03-09"
    assert fix_date(dated("2025-03-10"), tmp_path).date == "2025-03-09"
    assert fix_date(dated("2025-03-10"), tmp_path / "other").date == "2025-03-10"
    assert "fixed at 2025-03-09 (today, saved in" in notes[0]
    assert "fixed at 2025-03-09 (read from" in notes[1]


def test_a_date_of_the_recipe_is_left_alone(dated, notes, tmp_path):
    for prompt in ({"date": "2024-02-29"}, {"style": "plain"}):
        template = dated("2025-03-09", **prompt)
        assert fix_date(template, tmp_path) is template.prompt
    assert notes == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["runs/npo-1a2b/checkpoint", "runs/shared/model-3c4d/model"])
def test_a_model_is_measured_with_the_day_of_its_run(dated, notes, tmp_path, model):
    fix_date(dated("2025-03-09"), tmp_path / "runs/shared")
    (tmp_path / model).mkdir(parents=True)
    assert fix_date(dated("2025-03-10"), tmp_path / "out", str(tmp_path / model)).date == "2025-03-09"
    assert fix_date(dated("2025-03-10"), None, "org/model").date == "2025-03-10"
    assert "fixed at 2025-03-10 (today)" in notes[-1]
