"""Answer masks, compared with counts by hand.

Most tests use a tokenizer without merges: its tokens are single ASCII characters and the special tokens, so a text has
as many tokens as characters.
"""

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from expunge.config.recipe import Prompt
from expunge.data import templates
from expunge.data.sets import Row, make_set
from expunge.data.templates import Template
from expunge.errors import DataError, IncompatibleError
from expunge.modeling.load import train_tokenizer

LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}<|h|>system<|/h|>\n\nToday: {{ date_string | default('1 Jan 2000') }}\n\n"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}<|eot|>{% endif %}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}<|h|>{{ m.role }}<|/h|>\n\n{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def characters(*special: str, chat_template: str | None = None, eos: str = "</s>"):
    """A tokenizer whose tokens are ASCII characters and the given special tokens."""
    tokenizer = train_tokenizer([""], vocab_size=259, max_length=256)
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.eos_token = eos
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def merging(*merges: tuple[str, str], chat_template: str):
    """A byte-pair tokenizer with exactly these merges, which may join punctuation and words."""
    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {left + right: len(vocab) + i for i, (left, right) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = chat_template
    return fast


def answer_of(template: Template, question: str, answer: str) -> tuple[list[str], int]:
    """Tokens of the answer as text, and the number of prompt tokens."""
    encoded = template.encode(question, answer)
    assert encoded.num_answer == len(encoded.ids) - encoded.answer_start
    return [template.tokenizer.decode([i]) for i in encoded.ids[encoded.answer_start :]], encoded.answer_start


@pytest.fixture
def notes(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(templates, "note", messages.append)
    return messages


def test_plain_style():
    """'<s>' + 'Q: Who?' + '\\nA:' is 1 + 7 + 3 tokens; the answer is ' Me' and the end token, 3 + 1."""
    prompt = Prompt(style="plain", question="Q: {question}\nA:", answer=" {answer}")
    assert answer_of(Template(characters(), prompt, 64), "Who?", "Me") == ([" ", "M", "e", "</s>"], 11)


def test_plain_style_without_a_dedicated_start_token():
    """If start and end token are the same, as in GPT-2, the prompt has no start token: 7 + 3 tokens."""
    prompt = Prompt(style="plain", question="Q: {question}\nA:", answer=" {answer}")
    tokenizer = characters()
    tokenizer.bos_token = tokenizer.eos_token
    assert answer_of(Template(tokenizer, prompt, 64), "Who?", "Me")[1] == 10


def test_default_prompt_of_scratch_models():
    """'<s>' + 'Question: Who?' + '\\nAnswer:' is 1 + 14 + 8 tokens."""
    assert answer_of(Template(characters(), Prompt(), 64), "Who?", "Me") == ([" ", "M", "e", "</s>"], 23)


def test_llama_2_style():
    """'<s>' + '[INST] Who? [/INST]' is 1 + 19 tokens, and the answer follows without a space."""
    template = Template(characters(chat_template=LLAMA_2), Prompt(), 64)
    assert answer_of(template, "Who?", "Me") == (["M", "e", "</s>"], 20)


def test_first_letter_merged_with_the_prompt_belongs_to_the_answer():
    """']' and 'a' are merged into a token that starts in the prompt and ends in the answer: an answer token.

    The tokens of the prompt alone end in ']', so a mask based on their number would miss it. The tokens of the text
    are '[INST] q [/INST' (15), ']a', 'b', '</s>'.
    """
    chat = LLAMA_2.replace("{{ bos_token }}", "")
    template = Template(merging(("]", "a"), chat_template=chat), Prompt(), 64)
    assert len(template.prompt_ids("q")) == 16
    assert answer_of(template, "q", "ab") == (["]a", "b", "</s>"], 15)


def test_generation_prompt_that_ends_in_a_space():
    """The prompt ends in 'A: ' and ' b' is a token, so the first token of the answer includes the space."""
    chat = (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}A: "
        "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    template = Template(merging(("Ġ", "b"), chat_template=chat), Prompt(), 64)
    assert answer_of(template, "q", "bc") == ([" b", "c", "</s>"], 3)


def test_generation_prompt_whose_space_is_omitted_before_an_answer():
    """The prompt is 'qA: ' and the full text 'qA:bc': the answer starts where they differ, after 3 characters."""
    chat = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}A:{{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
    )
    template = Template(characters(chat_template=chat), Prompt(), 64)
    assert answer_of(template, "q", "bc") == (["b", "c", "</s>"], 3)


def test_llama_3_style_with_system_and_date(notes):
    """Number of tokens of each section of the prompt:

    '<s><|h|>system<|/h|>\\n\\n'   1 + 1 + 6 + 1 + 2 = 11
    'Today: 26 Jul 2024\\n\\n'     7 + 11 + 2 = 20
    'Be brief.<|eot|>'            9 + 1 = 10
    '<|h|>user<|/h|>\\n\\n'        1 + 4 + 1 + 2 = 8
    'Who?<|eot|>'                 4 + 1 = 5
    '<|h|>assistant<|/h|>\\n\\n'   1 + 9 + 1 + 2 = 13
    """
    tokenizer = characters("<|h|>", "<|/h|>", "<|eot|>", chat_template=LLAMA_3, eos="<|eot|>")
    template = Template(tokenizer, Prompt(system="Be brief.", date="26 Jul 2024"), 128)
    assert answer_of(template, "Who?", "Me") == (["M", "e", "<|eot|>"], 11 + 20 + 10 + 8 + 5 + 13)
    assert notes == []


def test_chatml_is_cut_after_the_end_token():
    """The template writes a newline after <|im_end|>, which is never generated, so the row does not include it.

    Prompt: '<|im_start|>user\\n' 6 + 'Who?<|im_end|>\\n' 6 + '<|im_start|>assistant\\n' 11.
    """
    tokenizer = characters("<|im_start|>", "<|im_end|>", chat_template=CHATML, eos="<|im_end|>")
    assert answer_of(Template(tokenizer, Prompt(), 64), "Who?", "Me") == (["M", "e", "<|im_end|>"], 23)


def test_the_template_s_end_of_turn_ends_the_answer():
    """ChatML with a tokenizer that has another end token: a chat model never writes '</s>' after '<|im_end|>'.

    Generation stops at either of them.
    """
    tokenizer = characters("<|im_start|>", "<|im_end|>", chat_template=CHATML)
    template = Template(tokenizer, Prompt(), 64)
    assert answer_of(template, "Who?", "Me")[0] == ["M", "e", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(list(template.end_ids)) == ["</s>", "<|im_end|>"]


@pytest.mark.parametrize("tail", ["", "\n", " (end of answer)", "\nBye."])
def test_end_token_is_added_if_the_template_writes_none(tail):
    """Words that the template writes after the answer are no part of it."""
    chat = "{% for m in messages %}{{ 'Q' if m.role == 'user' else 'A' }}: {{ m.content }}{% endfor %}" + tail
    tokens, _ = answer_of(Template(characters(chat_template=chat), Prompt(), 64), "Who?", "Me")
    assert [token for token in tokens if token.strip()] == ["M", "e", "</s>"]
    assert tokens[-1] == "</s>"


def test_plain_text_rows():
    """'<s>' + 5 characters + '</s>'; the start token predicts the first character, so all 5 + 1 count."""
    template = Template(characters(), Prompt(), 64)
    encoded = template.encode("", "Hello")
    assert (len(encoded.ids), encoded.answer_start) == (7, 1)


def test_plain_text_without_a_start_token():
    """5 characters + '</s>'; nothing predicts the first character, so 4 + 1 count."""
    tokenizer = characters()
    tokenizer.bos_token = tokenizer.eos_token
    encoded = Template(tokenizer, Prompt(), 64).encode("", "Hello")
    assert (len(encoded.ids), encoded.answer_start, encoded.num_answer) == (6, 1, 5)


@pytest.mark.parametrize(("question", "text"), [("Who?", "Me"), ("", "Hello")])
def test_longest_allowed_row(question, text):
    """A row of max_length tokens is encoded; a longer one raises an error with the row's id and both lengths."""
    tokenizer = characters()
    rows = make_set("forget", [Row(id="forget/7", question=question, answer=text, group="g")])
    length = len(Template(tokenizer, Prompt(), 64).encode_set(rows)[0].ids)
    assert len(Template(tokenizer, Prompt(), length).encode_set(rows)[0].ids) == length
    with pytest.raises(DataError, match=rf"'forget/7' has {length} tokens, but the longest allowed is {length - 1}"):
        Template(tokenizer, Prompt(), length - 1).encode_set(rows)


def test_tokenizer_without_an_end_token_raises():
    tokenizer = characters()
    tokenizer.eos_token = None
    with pytest.raises(IncompatibleError, match="no end-of-sequence token"):
        Template(tokenizer, Prompt(), 64)


def test_tokenizer_without_a_padding_token_changes_nothing():
    with_pad, without = characters(), characters()
    without.pad_token = None
    assert Template(without, Prompt(), 64).encode("Who?", "Me") == Template(with_pad, Prompt(), 64).encode("Who?", "Me")


def test_slow_tokenizer_raises():
    with pytest.raises(IncompatibleError, match="slow tokenizer"):
        Template(transformers.ByT5Tokenizer(), Prompt(style="plain"), 64)


def test_chat_style_without_a_chat_template_raises():
    tokenizer = characters()
    tokenizer.chat_template = None
    with pytest.raises(IncompatibleError, match=r"prompt\.style=plain"):
        Template(tokenizer, Prompt(), 64)


def test_template_that_rejects_a_system_message():
    chat = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
    with pytest.raises(IncompatibleError, match="System role not supported"):
        Template(characters(chat_template=chat), Prompt(system="Be brief."), 64)


@pytest.mark.parametrize(("setting", "value"), [("system", "Be brief."), ("date", "26 Jul 2024")])
def test_ignored_setting_is_noted_once(notes, setting, value):
    template = Template(characters(chat_template=LLAMA_2.replace("else", "elif m.role == 'assistant'")), Prompt(), 64)
    assert notes == []
    template = Template(template.tokenizer, Prompt(**{setting: value}), 64)
    template.encode("Who?", "Me")
    assert len(notes) == 1
    assert notes[0].startswith(f"Note: prompt.{setting} has no effect; this tokenizer's chat template does not use it.")
    assert ("Set prompt.system=null and put the text into the questions" in notes[0]) is (setting == "system")


def test_fingerprint_depends_on_the_tokens():
    """A system message that the template writes changes the fingerprint; a date that it ignores does not."""
    tokenizer = characters("<|im_start|>", "<|im_end|>", chat_template=CHATML, eos="<|im_end|>")
    plain = Template(tokenizer, Prompt(), 256).fingerprint
    assert Template(tokenizer, Prompt(), 256).fingerprint == plain
    assert Template(tokenizer, Prompt(system="Be brief."), 256).fingerprint != plain
    assert Template(tokenizer, Prompt(date="26 Jul 2024"), 256).fingerprint == plain


def test_encode_set_keeps_order_and_ids():
    rows = make_set("forget", [Row(id=f"forget/{i}", question="q", answer="a" * (3 - i), group="g") for i in range(3)])
    encoded = Template(characters(), Prompt(), 64).encode_set(rows)
    assert [(item.row, item.num_answer) for item in encoded] == [("forget/0", 5), ("forget/1", 4), ("forget/2", 3)]


def test_decode_drops_special_tokens_and_surrounding_spaces():
    template = Template(characters(), Prompt(), 64)
    assert template.decode(template.tokenizer(" a b </s>", add_special_tokens=False)["input_ids"]) == "a b"
