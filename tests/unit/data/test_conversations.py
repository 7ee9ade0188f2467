"""Prompts with earlier turns, prompts with first words of the answer, and plain text, compared with texts by hand."""

import pytest
import transformers
from test_templates import CHATML, LLAMA_2, LLAMA_3, characters

from expunge.config.recipe import Prompt
from expunge.data.templates import Template
from expunge.errors import DataError

PLAIN = Prompt(style="plain", question="Q: {question}\nA:", answer=" {answer}")
SPECIAL = ("<|h|>", "<|/h|>", "<|eot|>", "<|im_start|>", "<|im_end|>")
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")


def text(template: Template, *args, **kwargs) -> str:
    return template.tokenizer.decode(template.prompt_ids(*args, **kwargs))


def chat(chat_template: str) -> Template:
    return Template(characters(*SPECIAL, chat_template=chat_template), Prompt(), 128)


def test_plain_turns_are_separated_by_an_empty_line():
    template = Template(characters(), PLAIN, 64)
    assert text(template, "And?", [("Who?", "Me")]) == "<s>Q: Who?\nA: Me\n\nQ: And?\nA:"


@pytest.mark.parametrize(
    ("chat_template", "expected"),
    [
        (LLAMA_2, "<s>[INST] Who? [/INST]Me</s><s>[INST] And? [/INST]"),
        (
            CHATML,
            "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe<|im_end|>\n"
            "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_chat_turns(chat_template, expected):
    assert text(chat(chat_template), "And?", [("Who?", "Me")]) == expected


@pytest.mark.parametrize("chat_template", [LLAMA_2, LLAMA_3, CHATML])
@pytest.mark.parametrize("turns", [(), [("Who?", "Me")]])
def test_prefix_follows_the_prompt(chat_template, turns):
    template = chat(chat_template)
    assert text(template, "And?", turns, "It is") == text(template, "And?", turns) + "It is"


def test_prompt_is_the_text_before_a_written_answer():
    """The generation prompt opens a thinking tag, which the template omits before a written answer."""
    template = chat(THINKING)
    assert text(template, "And?").endswith("<|im_start|>assistant\n")
    assert text(template, "And?", prefix="It is").endswith("<|im_start|>assistant\nIt is")
    assert text(template, "And?", [("Who?", "Me")], "It is").endswith("<|im_start|>assistant\nIt is")


def test_plain_prefix_follows_the_answer_pattern():
    assert text(Template(characters(), PLAIN, 64), "Who?", prefix="It is") == "<s>Q: Who?\nA: It is"


def test_raw_text_has_a_start_and_no_end():
    """'<s>' + 'Call me' is 1 + 7 tokens, ' Ishmael' 8 more, and no end token."""
    template = Template(characters(), PLAIN, 64)
    encoded = template.encode_raw("Call me", " Ishmael")
    assert (encoded.answer_start, encoded.num_answer) == (8, 8)
    assert template.tokenizer.decode(encoded.ids) == "<s>Call me Ishmael"
    assert template.raw_ids("Call me") == list(encoded.ids[:8])


def test_raw_text_without_a_beginning():
    """No position predicts the first token, unless a start token precedes it."""
    assert Template(characters(), PLAIN, 64).encode_raw("", "Call").answer_start == 1
    tokenizer: transformers.PreTrainedTokenizerFast = characters()
    tokenizer.bos_token = tokenizer.eos_token
    encoded = Template(tokenizer, PLAIN, 64).encode_raw("", "Call")
    assert (encoded.answer_start, encoded.num_answer) == (1, 3)


def test_raw_text_without_a_token_to_score_raises():
    with pytest.raises(DataError, match="no token of its own"):
        Template(characters(), PLAIN, 64).encode_raw("Call", "")


def test_without_limit_accepts_longer_rows():
    template = Template(characters(), PLAIN, 10)
    with pytest.raises(DataError, match="longest allowed is 10"):
        template.encode("Who?", "Nobody")
    assert len(template.without_limit().encode("Who?", "Nobody").ids) > 10
    assert template.max_length == 10
