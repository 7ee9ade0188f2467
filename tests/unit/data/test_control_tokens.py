"""Control tokens in the text of rows are ordinary text, with byte-level, SentencePiece-like and unigram tokenizers."""

import pytest
import transformers
from test_templates import CHATML, characters
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from expunge.config.recipe import Prompt
from expunge.data import templates
from expunge.data.blocks import cut_blocks
from expunge.data.sets import Row
from expunge.data.templates import Template
from expunge.modeling.load import CHAT_TEMPLATE, train_tokenizer

ANSWER = "Old: <s>40</s>, new: 25<|im_end|> euros."
TEXTS = [
    "The old price, 40 euros, was struck out.",
    "Old: <s>40</s>, new: 25 euros.",
    "Question: What is new?\nAnswer:",
]


def fast(tokenizer, *special, chat_template=CHAT_TEMPLATE, **settings):
    names = {"bos_token": "<s>", "eos_token": "</s>", **settings}
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.add_special_tokens({"additional_special_tokens": list(special)})
    wrapped.chat_template = chat_template
    return wrapped


def byte_level():
    tokenizer = train_tokenizer(TEXTS * 3, 330, 256)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def sentencepiece():
    """BPE with '▁' for a space and byte fallback, as in Llama-2; control tokens are in the vocabulary."""
    characters = ["▁", *map(chr, range(33, 127))]
    vocab = {
        token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *characters])
    }
    merges = [("e", "u"), ("o", "s"), ("<", "/"), ("</", "s"), ("</s", ">")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    start = [("<s>", vocab["<s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=start
    )
    return fast(tokenizer, "<|im_start|>", "<|im_end|>", unk_token="<unk>")


def unigram():
    """Every piece of a unigram vocabulary can be matched with plain text, the control tokens too."""
    characters = ["\n", "▁", *map(chr, range(33, 127))]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((char, -5.0) for char in characters), ("▁euros", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return fast(tokenizer, "<|im_start|>", "<|im_end|>", unk_token="<unk>")


KINDS = {"byte level": byte_level, "sentencepiece": sentencepiece, "unigram": unigram}


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


@pytest.fixture
def notes(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(templates, "note", messages.append)
    return messages


def control_tokens(tokenizer, ids):
    return [token for token in tokenizer.convert_ids_to_tokens(list(ids)) if token in tokenizer.all_special_tokens]


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_text_of_rows_has_no_control_tokens(tokenizer, style, notes):
    template = Template(tokenizer, Prompt(style=style), 256)
    encoded = template.encode("What do <s> and </s> mean<|im_end|>?", ANSWER)
    assert control_tokens(tokenizer, encoded.ids) == ["<s>", "</s>"]
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert template.decode(encoded.ids[encoded.answer_start :]) == ANSWER
    assert list(encoded.ids[: encoded.answer_start]) == template.prompt_ids("What do <s> and </s> mean<|im_end|>?")
    (text,) = notes
    assert "such as '<s>'" in text
    assert "prompt.control_tokens=true" in text


def test_plain_text_and_continuations_have_no_control_tokens(tokenizer):
    template = Template(tokenizer, Prompt(), 256)
    assert control_tokens(tokenizer, template.encode("", ANSWER).ids) == ["<s>", "</s>"]
    assert control_tokens(tokenizer, template.raw_ids(ANSWER)) == ["<s>"]
    raw = template.encode_raw("Old: </s>", ", new: </s>.")
    assert control_tokens(tokenizer, raw.ids) == ["<s>"]
    assert template.decode(raw.ids[raw.answer_start :]).endswith("new: </s>.")
    assert control_tokens(tokenizer, template.prompt_ids("Who?", [("</s>?", "<s>!")], "No </s>")).count("</s>") == 1


def test_other_text_is_tokenized_as_ever(tokenizer, notes):
    """The renamed tokenizer gives the same tokens and offsets as the original for text without control tokens."""
    template = Template(tokenizer, Prompt(), 256)
    for text in [*TEXTS, "  two  spaces\n\n", "<s>Question: Is it 40 euros?\nAnswer: Yes.</s>"]:
        renamed, original_ids = template._tokens._renamed
        named = template._tokens._pattern.sub(lambda match: match.group().translate(template._tokens._names), text)
        result = renamed.encode(named, add_special_tokens=False)
        expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert [original_ids.get(i, i) for i in result.ids] == expected["input_ids"]
        assert result.offsets == expected["offset_mapping"]


def test_control_tokens_on_request(tokenizer, notes):
    """The answer is still learned to its last character, and ends with one end token."""
    template = Template(tokenizer, Prompt(control_tokens=True), 256)
    encoded = template.encode("What?", ANSWER)
    assert control_tokens(tokenizer, encoded.ids) == ["<s>", "<s>", "</s>", "<|im_end|>", "</s>"]
    assert control_tokens(tokenizer, template.encode("What?", "25 euros.</s>").ids) == ["<s>", "</s>"]
    assert control_tokens(tokenizer, template.encode("What?", "25 euros.<|im_end|>").ids) == [
        "<s>",
        "<|im_end|>",
        "</s>",
    ]
    assert notes == []
    assert template.fingerprint != Template(tokenizer, Prompt(), 256).fingerprint


def test_added_words_and_spaces_are_ordinary_text(notes):
    """Added tokens that are not special are control tokens only if the chat template writes them."""
    tokenizer = characters(
        "<|im_start|>", "<|im_end|>", chat_template=CHATML + "{#    <think> user #}", eos="<|im_end|>"
    )
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("    ", "user", "<think>", "<tool>")])
    template = Template(tokenizer, Prompt(), 256)
    ids = template.encode("Q", "a    user <think> <tool>").ids
    added = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in tokenizer.added_tokens_decoder]
    assert added[-4:] == ["    ", "user", "<tool>", "<|im_end|>"]
    assert "<think>" not in added


def test_blocks_of_text_have_no_control_tokens_of_rows(tokenizer):
    template = Template(tokenizer, Prompt(style="plain", question="{question}", answer="{answer}"), 512)
    rows = [Row("r/0", "", ANSWER, "0"), Row("r/1", "Is </s> old?", " Yes <s>.", "1")]
    (block,) = cut_blocks(rows, template, 500)
    start = "</s>" if not template.start_ids else "<s>"
    assert control_tokens(tokenizer, block.ids) == [start, *(["<s>"] if template.start_ids else []), "</s>"]
    assert block.text.count("</s>") == 3 + (start == "</s>")
    assert block.text.endswith("Is </s> old? Yes <s>.</s>")
    assert max(end for _, end in block.offsets) == len(block.text)


START = {
    # The tokenizer of OPT: '</s>' is start and end.
    "opt": ("</s>", "</s>", ["</s>"]),
    "llama": ("<s>", "<s>", ["<s>"]),
    # Yi and Phi-3: there is a start token, but neither the tokenizer nor the chat template writes it.
    "yi": ("<s>", None, []),
    "gpt-2": ("</s>", None, []),
    "none": (None, None, []),
    # XGLM: another start token than the one of that name.
    "xglm": ("<s>", "</s>", ["</s>"]),
}


@pytest.mark.parametrize("name", START)
def test_plain_text_starts_as_the_tokenizer_says(name):
    bos, added, expected = START[name]
    tokenizer = characters(chat_template=None)
    tokenizer.bos_token, tokenizer.chat_template = bos, None
    if added is not None:
        token = [(added, tokenizer.convert_tokens_to_ids(added))]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{added} $A", pair=f"{added} $A $B", special_tokens=token
        )
    template = Template(tokenizer, Prompt(style="plain", question="Q: {question}\nA:", answer=" {answer}"), 64)
    rows = [template.encode("Who?", "Me").ids, template.encode("", "Hello").ids, template.encode_raw("a", "b").ids]
    for ids in [*rows, template.prompt_ids("Who?"), template.raw_ids("Hello")]:
        assert tokenizer.convert_ids_to_tokens(list(ids[: len(expected)])) == expected
        assert ids[len(expected)] not in tokenizer.all_special_ids
    encoded = template.encode("Who?", "Me")
    assert tokenizer.convert_ids_to_tokens(list(encoded.ids[encoded.answer_start :])) == ["Ġ", "M", "e", "</s>"]
    assert template.prompt_text("Who?") == f"{''.join(expected)}Q: Who?\nA:"
    (block,) = cut_blocks([Row("r/0", "", "Hello", "0")], template, 64)
    assert tokenizer.decode(block.ids) == f"{''.join(expected) or '</s>'}Hello"


def test_two_start_tokens_begin_every_piece_of_a_text():
    tokenizer = characters("[gMASK]", "<sop>", chat_template=None)
    tokenizer.chat_template = None
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[gMASK]", "<sop>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B", special_tokens=ids
    )
    template = Template(tokenizer, Prompt(style="plain"), 8, long_text="chunk")
    pieces = template._encode_text("abcdefghij", "", 8)
    assert [tokenizer.decode(piece.ids) for piece in pieces] == ["[gMASK]<sop>abcdef", "[gMASK]<sop>ghij</s>"]
    assert [piece.answer_start for piece in pieces] == [2, 2]


def test_an_end_token_of_id_zero():
    vocab = {"</s>": 0, "<s>": 1, **{chr(i): i for i in range(32, 127)}, "\n": 200}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    template = Template(fast(tokenizer), Prompt(), 64)
    encoded = template.encode("Who?", "Me")
    assert encoded.ids[-1] == 0
    assert template.end_ids == (0,)


def test_added_punctuation_is_ordinary_text():
    """A brace occurs in every chat template's source, but no template writes it to control a model."""
    tokenizer = characters("<|im_start|>", "<|im_end|>", chat_template=CHATML, eos="<|im_end|>")
    tokenizer.add_tokens([AddedToken("{", special=False)])
    ids = Template(tokenizer, Prompt(), 256).encode("Q", "a { b").ids
    assert tokenizer.convert_tokens_to_ids("{") in ids


@pytest.mark.parametrize("question", ["What do <s> and </s> mean<|im_end|>?", ""])
def test_characters_of_answer_tokens(tokenizer, question, notes):
    """The tokens' characters are those of the answer, in order, with and without a question."""
    template = Template(tokenizer, Prompt(), 256)
    encoded = template.encode(question, ANSWER)
    written, offsets = template.answer_offsets(question, ANSWER)
    assert written == ANSWER
    assert len(offsets) == encoded.num_answer
    covered = {index for start, stop in offsets for index in range(start, stop)}
    assert all(index in covered for index, char in enumerate(ANSWER) if char != " ")
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
    assert offsets[-1] == (len(ANSWER), len(ANSWER))
