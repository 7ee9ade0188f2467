"""Answer masks, stop tokens and prompts in the forms of well-known chat templates, against texts written by hand."""

import datetime

import pytest
from chat_forms import FORMS, LLAMA_3, MISTRAL_1

from expunge.config.recipe import Prompt
from expunge.data import chat, templates
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.modeling.tokenizers import fix_date
from expunge.probes.session import end_ids

ANSWERS = ["Me", "Ana Bell did, in 1981.", "1981", "It is\n\nabout it.", "[INST] and <|eot_id|> are tokens"]


@pytest.fixture(autouse=True)
def today(monkeypatch):
    """Set the clock of chat templates: `today(day)`; at first 2025-03-09."""

    def set_day(text):
        monkeypatch.setattr(chat, "_today", lambda tokenizer: datetime.date.fromisoformat(text))

    set_day("2025-03-09")
    return set_day


def template_of(form, **settings):
    return Template(form.tokenizer(), Prompt(**settings), 512)


def text_of(template, ids):
    return template.tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", FORMS)
def test_the_mask_covers_the_answer_and_its_end_token(name, answer):
    """What is learned is the answer and the end of the turn; what is before it is the prompt, in equal tokens."""
    form = FORMS[name]
    template = template_of(form)
    encoded = template.encode("Who?", answer)
    assert text_of(template, encoded.targets).lstrip(" ") == answer + form.end
    assert encoded.ids[-1] == template.tokenizer.convert_tokens_to_ids(form.end)
    assert text_of(template, encoded.ids[: encoded.answer_start]) == form.prompt
    assert list(encoded.ids[: encoded.answer_start]) == template.prompt_ids("Who?")


@pytest.mark.parametrize("name", FORMS)
def test_answers_are_generated_after_the_templates_own_generation_prompt(name):
    form = FORMS[name]
    template = template_of(form)
    messages = chat.conversation("Who?")
    own = template.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string="09 Mar 2025", **form.variables
    )
    assert template.prompt_text("Who?") == own == form.prompt


@pytest.mark.parametrize("name", FORMS)
def test_every_end_of_turn_token_stops_a_generation(name):
    form = FORMS[name]
    template = template_of(form)
    stops = end_ids(form.model(), template)
    assert set(template.tokenizer.convert_ids_to_tokens(stops)) == set(form.stops)


@pytest.mark.parametrize("name", FORMS)
def test_a_system_message_is_written_or_refused_with_a_way_out(name, monkeypatch):
    """A template that leaves it out silently is used, with a note, since recipes are meant for several models."""
    form, notes = FORMS[name], []
    monkeypatch.setattr(templates, "note", notes.append)
    if form.rejects:
        with pytest.raises(IncompatibleError, match=form.rejects) as refused:
            template_of(form, system="Be brief.")
        assert chat.WITHOUT_SYSTEM_ROLE in str(refused.value)
        return
    template = template_of(form, system="Be brief.")
    encoded = template.encode("Who?", "Me")
    assert text_of(template, encoded.ids[: encoded.answer_start]) == (form.with_system or form.prompt)
    assert text_of(template, encoded.targets).lstrip(" ") == "Me" + form.end
    assert [note.endswith(chat.WITHOUT_SYSTEM_ROLE) for note in notes] == ([] if form.with_system else [True])


@pytest.mark.parametrize("name", FORMS)
def test_earlier_turns_alternate(name):
    """The prompt of a second question contains the first exchange once and ends like that of a first question."""
    form = FORMS[name]
    template = template_of(form)
    text = text_of(template, template.prompt_ids("And?", [("Who?", "Ana.")]))
    assert text.count("Who?") == text.count("Ana.") == text.count("And?") == 1
    assert text.endswith(form.prompt.rpartition("Who?")[2])


def test_the_date_of_a_run_is_kept_when_it_is_resumed(today, tmp_path):
    """The run's day is written once; a later start of it, on another day, has the same prompt."""
    prompts = [fix_date(template_of(LLAMA_3), tmp_path)]
    today("2025-03-10")
    prompts.append(fix_date(template_of(LLAMA_3), tmp_path))
    assert [prompt.date for prompt in prompts] == ["2025-03-09"] * 2
    assert [template_of(LLAMA_3, date=prompt.date).prompt_text("Who?") for prompt in prompts] == [LLAMA_3.prompt] * 2
    assert "10 Mar 2025" in template_of(LLAMA_3).prompt_text("Who?")


def test_the_first_token_of_an_answer_may_hold_the_space_before_it():
    """The template's space after [/INST] is part of the token of the first word, which is learned whole."""
    template = template_of(MISTRAL_1)
    first = template.encode("Who?", "Who wrote it?").targets[0]
    assert text_of(template, [first]).startswith(" W")
