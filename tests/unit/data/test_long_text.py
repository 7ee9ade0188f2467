"""Plain text that is longer than a row may be, and forget sets of several topics."""

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.config.load import parse_recipe
from expunge.config.recipe import FilesData, Prompt, Source
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Row, RowSet
from expunge.data.sources.rows import load_rows
from expunge.data.templates import Template
from expunge.errors import ConfigError, DataError
from expunge.modeling.load import train_tokenizer

TEXT = "abcdefghij" * 3


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer whose every character is a token: 3 special tokens and 256 bytes leave no room for merges."""
    return train_tokenizer(["x"], 259, 512)


def rows(*texts: str, **extra: Any) -> RowSet:
    return RowSet("forget", tuple(Row(f"forget/{i}", "", text, f"{i}", **extra) for i, text in enumerate(texts)))


def texts(template: Template, ids: tuple[int, ...]) -> str:
    return str(template.tokenizer.decode(ids))


@pytest.mark.parametrize("length", [8, 11, 16, 31, 32])
def test_chunks_hold_every_token_once(tokenizer: Any, length: int) -> None:
    """Each chunk starts a sequence; only the last has the end token; nothing is lost and nothing repeated."""
    template = Template(tokenizer, Prompt(), length, long_text="chunk")
    pieces = template.encode_set(rows(TEXT))
    written = [texts(template, piece.ids) for piece in pieces]
    assert all(
        piece.startswith("<s>") and len(encoded.ids) <= length for piece, encoded in zip(written, pieces, strict=True)
    )
    assert "".join(piece.removeprefix("<s>") for piece in written).removesuffix("</s>") == TEXT
    assert sum("</s>" in piece for piece in written) <= 1
    assert all(encoded.answer_start == 1 and encoded.num_answer >= 1 for encoded in pieces)


def test_an_end_token_alone_is_no_chunk(tokenizer: Any) -> None:
    """30 characters in chunks of 10: three chunks are full, and a fourth would hold the end token only."""
    template = Template(tokenizer, Prompt(), 11, long_text="chunk")
    assert [texts(template, piece.ids) for piece in template.encode_set(rows(TEXT))] == ["<s>abcdefghij"] * 3


def test_truncation_keeps_the_beginning_without_an_end_token(tokenizer: Any) -> None:
    template = Template(tokenizer, Prompt(), 8, long_text="truncate")
    found = template.encode_set(rows(TEXT, "abc"))
    assert [texts(template, piece.ids) for piece in found] == ["<s>abcdefg", "<s>abc</s>"]
    assert template.encode("", TEXT) == template.encode_row(Row("", "", TEXT, "")).__class__(found[0].ids, 1, "text")


def test_questions_are_never_cut(tokenizer: Any) -> None:
    template = Template(tokenizer, Prompt(), 16, long_text="truncate")
    with pytest.raises(DataError, match=r"has \d+ tokens, but the longest allowed is 16"):
        template.encode_set(RowSet("forget", (Row("forget/0", "Who?", TEXT, "0"),)))


def test_refusing_is_the_default_and_says_what_to_do(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data\.long_text") as caught:
        Template(tokenizer, Prompt(), 16).encode_set(rows(TEXT))
    assert TEXT[:5] not in str(caught.value)


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


def test_topics_change_the_hash_and_rows_without_them_keep_theirs() -> None:
    plain = rows("a", "b")
    assert plain.hash == rows("a", "b", topic="", max_tokens=None).hash
    assert plain.hash != rows("a", "b", topic="bio").hash
    assert plain.hash != rows("a", "b", max_tokens=9).hash


def test_short_texts_are_left_out_before_the_limit_counts(tmp_path: Path) -> None:
    """wikitext has empty lines between its paragraphs."""
    file = tmp_path / "wiki.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": text}) for text in ("", " = A = \n", "   ", "long enough", "more of it"))
    )
    found = load_rows(Source(path=str(file), min_chars=1), "retain")
    assert [row.answer for row in found] == [" = A = \n", "long enough", "more of it"]
    found = load_rows(Source(path=str(file), min_chars=10, limit=1), "retain")
    assert [(row.id, row.answer) for row in found] == [("retain/0", "long enough")]
    with pytest.raises(DataError, match="no rows with at least 99 characters"):
        load_rows(Source(path=str(file), min_chars=99), "retain")


def test_text_settings_on_questions_are_refused(tmp_path: Path) -> None:
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
def test_contradictions_are_refused(data: dict[str, Any], problem: str) -> None:
    recipe = {
        "name": "x",
        "model": {"name": "m"},
        "data": {"name": "files", **data},
        "method": "gradascent",
        "train": {"lr": 1e-5, "epochs": 1},
    }
    with pytest.raises(ConfigError, match=problem):
        parse_recipe(recipe)
