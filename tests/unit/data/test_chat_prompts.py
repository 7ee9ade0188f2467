"""The prompt is the chat template's text up to the answer: thinking blocks, channels, dates, variables, end tokens.

The templates are shortened copies of what well-known models have. The tokenizer's tokens are single characters.
"""

import datetime

import pytest
from test_templates import CHATML, characters

from expunge.config.recipe import Prompt
from expunge.data import chat, templates
from expunge.data.templates import Template
from expunge.errors import IncompatibleError

SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|h|>",
    "<|/h|>",
    "<|end|>",
    "<|return|>",
    "<|channel|>",
    "<|message|>",
    "<eot>",
)

# Qwen3: a given answer gets an empty thinking block, the generation prompt does not.
THINK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ text }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# gpt-oss: answers are in a channel that the generation prompt leaves to the model, and the last one ends differently.
CHANNEL = (
    "{% for m in messages %}<|h|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant{% endif %}"
)
# Alpaca: no generation prompt; the header is written with the answer.
NO_GENERATION_PROMPT = (
    "{{ bos_token }}{% for m in messages %}### {{ 'Instruction' if m.role == 'user' else 'Response' }}:\n"
    "{{ m.content | trim }}\n\n{% endfor %}"
)
# Llama-2: a space before the answer, which is stripped, and one before the end token.
STRIPS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
# Qwen2.5: a system prompt of its own.
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
# Phi-3: an end of turn, then the end token; DeepSeek-R1: the generation prompt opens a thinking block.
TWO_ENDS = "{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n{{ m.content }}<|end|>\n{% endfor %}{{ eos_token }}"
OPENS_THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")

TEMPLATES = {
    "think": (THINK, "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
    "channel": (CHANNEL, "<|h|>assistant<|channel|>final<|message|>", "<|return|>"),
    "no generation prompt": (NO_GENERATION_PROMPT, "### Response:\n", "</s>"),
    "strips": (STRIPS, "[/INST]", "</s>"),
    "system": (SYSTEM, "<|im_start|>assistant\n", "<|im_end|>"),
    "two ends": (TWO_ENDS, "<|h|>assistant<|/h|>\n", "<|end|>"),
    "opens thinking": (OPENS_THINKING, "<|im_start|>assistant\n", "<|im_end|>"),
}


@pytest.fixture
def notes(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(templates, "note", messages.append)
    return messages


def template_of(source, **settings):
    return Template(characters(*SPECIAL, chat_template=source), Prompt(**settings), 512)


def tokens(template, ids):
    return template.tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", ["Me", "Ana did, in 1981.", " padded ", "two\n\nlines", "a</s>b<|end|>"])
def test_only_the_answer_and_its_end_are_learned(name, answer, notes):
    """Scoring, training and generation share a prompt: the template's text up to the answer, token by token."""
    source, prompt, end = TEMPLATES[name]
    template = template_of(source)
    encoded = template.encode("Who?", answer)
    learned = tokens(template, encoded.ids[encoded.answer_start :])
    assert learned[-1] == end
    assert template.tokenizer.decode(encoded.ids[encoded.answer_start : -1]).strip() == answer.strip()
    assert list(encoded.ids[: encoded.answer_start]) == template.prompt_ids("Who?")
    assert template.prompt_text("Who?").endswith(prompt)
    assert template.tokenizer.decode(template.prompt_ids("Who?")) == template.prompt_text("Who?")
    assert template.tokenizer.convert_tokens_to_ids(end) in template.end_ids


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", ["Me", "Ana did, in 1981.", " padded ", "two\n\nlines", "a</s>b<|end|>"])
def test_characters_of_answer_tokens(name, answer, notes):
    """Each token of the answer has its characters, here one; the end token has none."""
    template = template_of(TEMPLATES[name][0])
    written, offsets = template.answer_offsets("Who?", answer)
    encoded = template.encode("Who?", answer)
    assert written.strip() == answer.strip()
    assert len(offsets) == encoded.num_answer
    assert offsets[-1][0] == offsets[-1][1]
    pieces = [written[start:stop] for start, stop in offsets]
    assert "".join(pieces).strip() == answer.strip()
    decoded = [template.tokenizer.decode([token]) for token in encoded.targets]
    assert [piece.strip() for piece in pieces[:-1]] == [text.strip() for text in decoded[:-1]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_earlier_turns_and_prefixes_precede_the_same_prompt(name):
    source, prompt, _ = TEMPLATES[name]
    template = template_of(source)
    text = template.tokenizer.decode(template.prompt_ids("And?", [("Who?", "Me")]))
    assert text == template.prompt_text("And?", [("Who?", "Me")])
    assert text.endswith(prompt)
    assert "Who?" in text
    prefixed = template.tokenizer.decode(template.prompt_ids("And?", prefix="It is"))
    assert prefixed.replace(template.prompt_text("And?"), "").strip() == "It is"


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content | upper }}{% endfor %}", r"With this answer: 'ANA DID\.'"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content | replace('n', 'm') }}{% endfor %}", r"'Ama did\.'"),
        (
            "{% for m in messages %}{{ m.content }}{{ '!' if m.content | length > 2 else '' }}{% endfor %}",
            "placeholder",
        ),
        (
            "{% for m in messages %}{{ 'Long: ' if m.content | length > 5 else 'Short: ' }}{{ m.content }}{% endfor %}",
            r"Prompt for any answer: 'Short: Who\?Short: '\. With this answer: 'Long: Ana did\.'",
        ),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "writes a given answer not at all"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "writes a given answer 2 times"),
    ],
)
def test_what_cannot_be_aligned_is_refused_with_both_texts(source, match):
    if match == "placeholder":
        match = "does not write the answer of the row 'row/7' unchanged"
    with pytest.raises(IncompatibleError, match=match):
        template_of(source).encode("Who?", "Ana did.", "row/7")


def test_a_template_that_cuts_the_answer_is_refused():
    """'</think>' is no token here, so it cannot be distinguished from the text by which Qwen3's template splits."""
    with pytest.raises(IncompatibleError, match="does not write the answer of the row 'row/7' unchanged"):
        template_of(THINK).encode("Who?", "<think>no</think>yes", "row/7")


def test_white_space_of_the_answer_may_be_rewritten():
    template = template_of("{% for m in messages %}{{ m.role }}: {{ m.content.split() | join(' ') }}\n{% endfor %}")
    encoded = template.encode("Who?", "Ana\n\n did. ")
    assert template.tokenizer.decode(encoded.ids[encoded.answer_start :]).strip() == "Ana did.\n</s>"


def test_template_variables_are_passed_on(notes):
    source = THINK.replace("{% if loop.last %}", "{% if enable_thinking is defined and not enable_thinking %}")
    assert template_of(source).prompt_text("Who?").endswith("assistant\n")
    template = template_of(source, template={"enable_thinking": False})
    assert template.prompt_text("Who?").endswith("<think>\n\n</think>\n\n")
    assert template_of(source).fingerprint != template.fingerprint
    assert notes == []


def test_variables_without_effect_are_noted(notes):
    template_of(CHATML, template={"enable_thinking": False})
    assert notes == [
        "Note: prompt.template.enable_thinking has no effect; this tokenizer's chat template does not use it."
    ]
    source = CHATML + "{% if add_generation_prompt and not enable_thinking %}<think></think>{% endif %}"
    template_of(source, template={"enable_thinking": True})
    assert "changes the chat template's generation prompt only" in notes[1]


def test_reserved_variables_are_refused():
    with pytest.raises(ValueError, match="'tokenize' cannot be set here"):
        Prompt(template={"tokenize": True})
    with pytest.raises(ValueError, match="only one of date and"):
        Prompt(date="2025-01-31", template={"date_string": "today"})
    with pytest.raises(ValueError, match="no effect with style 'plain'"):
        Prompt(style="plain", template={"enable_thinking": False})


def test_a_template_cannot_leave_its_sandbox():
    with pytest.raises(IncompatibleError, match="rejects this prompt"):
        template_of("{{ ''.__class__.__mro__ }}{% for m in messages %}{{ m.content }}{% endfor %}")


DATED = "Today: {{ strftime_now('%d %b %Y') }}\n" + CHATML
# Llama-3.1
DATE_STRING = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}Today: {{ date_string }}\n" + CHATML
)


def first_line(template):
    return template.prompt_text("?").partition("\n")[0]


@pytest.fixture
def today(monkeypatch):
    """`today(day)` sets the clock of chat templates."""

    def set_day(text):
        monkeypatch.setattr(chat, "_today", lambda tokenizer: datetime.date.fromisoformat(text))

    set_day("2025-03-09")
    return set_day


@pytest.mark.parametrize(
    ("source", "date", "expected"),
    [
        (DATED, None, "Today: 09 Mar 2025"),
        (DATED, "2024-02-29", "Today: 29 Feb 2024"),
        (DATED, datetime.date(2024, 2, 29), "Today: 29 Feb 2024"),
        (DATED, "10 Apr 2025", "Today: 10 Apr 2025"),
        (DATED, "April 10, 2025", "Today: 10 Apr 2025"),
        (DATE_STRING, None, "Today: 09 Mar 2025"),
        (DATE_STRING, "2024-02-29", "Today: 29 Feb 2024"),
        (DATE_STRING, "spring", "Today: spring"),
        (
            DATED.replace("%d %b %Y", "%A, %B %-d, 100%% %Y %H:%M"),
            "2024-02-29",
            "Today: Thursday, February 29, 100% 2024 00:00",
        ),
        ("{% set year = strftime_now('%Y') | int %}Next: {{ year + 1 }}\n" + CHATML, "2024-02-29", "Next: 2025"),
        ("{% macro day() %}{{ strftime_now(format='%j') }}{% endmacro %}{{ day() }}\n" + CHATML, "2024-02-29", "060"),
    ],
)
def test_the_date_is_that_of_the_recipe(today, notes, source, date, expected):
    template = template_of(source, date=date)
    assert first_line(template) == expected
    assert template.prints_today is (date is None)
    today("2025-03-10")
    assert first_line(template) == expected
    assert notes == []


def test_templates_without_a_date_do_not_depend_on_the_day(today, notes):
    assert not template_of(CHATML).prints_today
    assert not template_of("{% set unused = strftime_now('%Y') %}" + CHATML).prints_today
    template_of(CHATML, date="2025-03-09")
    assert notes == ["Note: prompt.date has no effect; this tokenizer's chat template does not use it."]


def test_text_that_is_no_date_is_refused_if_a_day_is_needed(today):
    with pytest.raises(IncompatibleError, match=r"it needs a day; write prompt\.date as YYYY-MM-DD"):
        template_of(DATED, date="spring")


def test_a_template_keeps_its_leading_white_space(today):
    for source in ("\n\nx" + DATED, "  {% if true %}\n  x{% endif %}" + DATED, "{#- x #}\n" + DATED):
        template = template_of(source)
        plain = template.tokenizer.apply_chat_template(chat.conversation("?", answer="!"), tokenize=False)
        assert template.full_text("?", "!").replace("09 Mar 2025", "") == plain.replace(
            datetime.datetime.now().strftime("%d %b %Y"), ""
        )


def test_the_difference_of_two_prompts_in_words():
    text = chat.describe_difference("Today: 09 Mar 2025\nQ", "Today: 10 Mar 2025\nQ")
    assert text == "After 'Today: ', here the text is '09 Mar 2025\\nQ', there it is '10 Mar 2025\\nQ'."
    assert chat.describe_difference("a", "b") == "Here the text is 'a', there it is 'b'."
