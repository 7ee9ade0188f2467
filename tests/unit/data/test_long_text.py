"""Plain text that exceeds the maximum length of a row, and forget sets of several topics."""

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.config.load import parse_recipe
from expunge.config.recipe import FilesData, Prompt, Source
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Row, RowSet
from expunge.data.sources.rows import load_rows
from expunge.data.templates import Encoded, Template
from expunge.errors import ConfigError, DataError
from expunge.modeling.load import train_tokenizer

TEXT = "abcdefghij" * 3


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer with one token per character: 3 special tokens and 256 bytes leave no room for merges."""
    return train_tokenizer(["x"], 259, 512)


def rows(*texts: str, **extra: Any) -> RowSet:
    return RowSet("forget", tuple(Row(f"forget/{i}", "", text, f"{i}", **extra) for i, text in enumerate(texts)))


def decoded(template: Template, ids: tuple[int, ...]) -> str:
    return str(template.tokenizer.decode(ids))


@pytest.mark.parametrize("length", [8, 11, 16, 31, 32])
def test_chunks_contain_every_token_once(tokenizer: Any, length: int) -> None:
    """Each chunk has a start token and only the last one an end token; no character is lost or repeated."""
    template = Template(tokenizer, Prompt(), length, long_text="chunk")
    pieces = template.encode_set(rows(TEXT))
    chunks = [decoded(template, piece.ids) for piece in pieces]
    assert all(
        chunk.startswith("<s>") and len(piece.ids) <= length for chunk, piece in zip(chunks, pieces, strict=True)
    )
    assert "".join(chunk.removeprefix("<s>") for chunk in chunks).removesuffix("</s>") == TEXT
    assert sum("</s>" in chunk for chunk in chunks) <= 1
    assert all(piece.answer_start == 1 and piece.num_answer >= 1 for piece in pieces)


def test_end_token_alone_is_no_chunk(tokenizer: Any) -> None:
    """30 characters in chunks of 10: three chunks are full, and a fourth would contain the end token only."""
    template = Template(tokenizer, Prompt(), 11, long_text="chunk")
    assert [decoded(template, piece.ids) for piece in template.encode_set(rows(TEXT))] == ["<s>abcdefghij"] * 3


def test_truncated_text_has_no_end_token(tokenizer: Any) -> None:
    template = Template(tokenizer, Prompt(), 8, long_text="truncate")
    encoded = template.encode_set(rows(TEXT, "abc"))
    assert [decoded(template, row.ids) for row in encoded] == ["<s>abcdefg", "<s>abc</s>"]
    assert template.encode("", TEXT) == Encoded(encoded[0].ids, 1, "text")


def test_long_questions_raise(tokenizer: Any) -> None:
    template = Template(tokenizer, Prompt(), 16, long_text="truncate")
    with pytest.raises(DataError, match=r"has \d+ tokens, but the longest allowed is 16"):
        template.encode_set(RowSet("forget", (Row("forget/0", "Who?", TEXT, "0"),)))


def test_long_text_raises_by_default(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data\.long_text") as raised:
        Template(tokenizer, Prompt(), 16).encode_set(rows(TEXT))
    assert TEXT[:5] not in str(raised.value)


def test_a_source_may_have_a_shorter_limit(tokenizer: Any) -> None:
    template = Template(tokenizer, Prompt(), 16, long_text="truncate")
    assert len(template.encode_set(rows(TEXT, max_tokens=9))[0].ids) == 9
    assert len(template.encode_set(rows(TEXT, max_tokens=99))[0].ids) == 16


def test_topics_reach_the_encoded_rows(tokenizer: Any, tmp_path: Path) -> None:
    for name, lines in (("bio", ["a b", "c d"]), ("cyber", ["e f"])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    config = FilesData(
        topics={
            "bio": Source(path=str(tmp_path / "bio.jsonl"), max_tokens=8),
            "cyber": Source(path=str(tmp_path / "cyber.jsonl")),
        },
        long_text="chunk",
    )
    forget = prepare_sets(config).forget
    assert [(row.id, row.topic, row.max_tokens) for row in forget] == [
        ("forget/bio/0", "bio", 8),
        ("forget/bio/1", "bio", 8),
        ("forget/cyber/0", "cyber", None),
    ]
    encoded = Template(tokenizer, Prompt(), 64).encode_set(forget)
    assert [row.topic for row in encoded] == ["bio", "bio", "cyber"]


def test_topics_and_limits_change_the_hash_only_if_set() -> None:
    plain = rows("a", "b")
    assert plain.hash == rows("a", "b", topic="", max_tokens=None).hash
    assert plain.hash != rows("a", "b", topic="bio").hash
    assert plain.hash != rows("a", "b", max_tokens=9).hash


def test_short_texts_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    """min_chars=1 drops the empty lines between the paragraphs of wikitext."""
    file = tmp_path / "wiki.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": text}) for text in ("", " = A = \n", "   ", "long enough", "more of it"))
    )
    loaded = load_rows(Source(path=str(file), min_chars=1), "retain")
    assert [row.answer for row in loaded] == [" = A = \n", "long enough", "more of it"]
    loaded = load_rows(Source(path=str(file), min_chars=10, limit=1), "retain")
    assert [(row.id, row.answer) for row in loaded] == [("retain/0", "long enough")]
    with pytest.raises(DataError, match="no rows with at least 99 characters"):
        load_rows(Source(path=str(file), min_chars=99), "retain")


def test_text_settings_on_questions_raise(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answer": "Me"}))
    with pytest.raises(DataError, match="min_chars needs plain text"):
        load_rows(Source(path=str(file), min_chars=1), "forget")
    with pytest.raises(DataError, match="max_tokens has no effect"):
        load_rows(Source(path=str(file), max_tokens=8), "forget")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "exactly one of forget .* and topics"),
        ({"forget": {"path": "a"}, "topics": {"b": {"path": "b"}}}, "exactly one of forget .* and topics"),
        ({"forget": {"path": "a", "max_tokens": 9}}, "max_tokens has no effect with long_text 'refuse'"),
        ({"topics": {"b": {"pth": "b"}}}, r"data\.topics\.b\.pth: there is no setting 'pth'.*'path'"),
    ],
)
def test_contradictory_settings_raise(data: dict[str, Any], problem: str) -> None:
    recipe = {
        "name": "x",
        "model": {"name": "m"},
        "data": {"name": "files", **data},
        "method": "gradascent",
        "train": {"lr": 1e-5, "epochs": 1},
    }
    with pytest.raises(ConfigError, match=problem):
        parse_recipe(recipe)
