"""Files of rows that are malformed, hostile or only unusual."""

import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.faults.conftest import snapshot

from expunge.config.recipe import Source
from expunge.data.sources.rows import load_rows

ROW = {"question": "Where was she born?", "answer": "In Bern."}
LINE = json.dumps(ROW) + "\n"


def parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def invalid_utf8_parquet() -> bytes:
    bad = pa.array([b"\xff\xfe bad"], pa.binary())
    text = pa.StringArray.from_buffers(1, bad.buffers()[1], bad.buffers()[2])
    return parquet(question=["q"], answer=text)


def jsonl(**values) -> str:
    return json.dumps({**ROW, **values}) + "\n"


GOOD_PARQUET = parquet(question=["q"], answer=["a"])
BROKEN = {
    "jsonl empty": ("a.jsonl", "", "is empty"),
    "jsonl spaces": ("a.jsonl", " \n\n\t", "is empty"),
    "jsonl byte order mark only": ("a.jsonl", b"\xef\xbb\xbf", "is empty"),
    "jsonl cut": ("a.jsonl", LINE + LINE[:20], "line 2 is not valid JSON"),
    "jsonl cut escape": ("a.jsonl", '{"question": "q", "answer": "\\u00', "line 1"),
    "jsonl word": ("a.jsonl", "hello", "not valid JSON"),
    "jsonl number": ("a.jsonl", LINE + "3\n", "line 2 is a number"),
    "jsonl null": ("a.jsonl", LINE + "null\n", "line 2 is null"),
    "jsonl true": ("a.jsonl", "true\n", "true or false"),
    "jsonl string": ("a.jsonl", '"text"\n', "a string"),
    "jsonl list": ("a.jsonl", LINE + "[1]\n", "line 2 is a list"),
    "jsonl list of numbers": ("a.jsonl", "[1, 2]", "is a number"),
    "jsonl two rows in a line": ("a.jsonl", LINE.strip() + LINE, "not valid JSON"),
    "jsonl comments": ("a.jsonl", "// rows\n" + LINE, "line 1"),
    "jsonl single quotes": ("a.jsonl", str(ROW), "line 1"),
    "jsonl deep": ("a.jsonl", '{"question": ' + "[" * 100_000, "nested too deeply"),
    "jsonl deep objects": ("a.jsonl", '{"a":' * 100_000, "nested too deeply"),
    "jsonl number of 5,000 digits": ("a.jsonl", '{"question": "q", "answer": ' + "9" * 5000 + "}\n", "line 1"),
    "jsonl without answer": ("a.jsonl", '{"question": "q"}\n', "no column 'answer'"),
    "jsonl without question": ("a.jsonl", '{"answer": "a"}\n', "no column 'question'"),
    "jsonl empty object": ("a.jsonl", "{}\n", "no column"),
    "jsonl null answer": ("a.jsonl", jsonl(answer=None), "has no answer"),
    "jsonl missing in row 2": ("a.jsonl", LINE + '{"question": "q"}\n', "line 2 has no answer"),
    "jsonl empty answer": ("a.jsonl", jsonl(answer=""), "has no answer"),
    "jsonl blank answer": ("a.jsonl", jsonl(answer=" \t\n"), "has no answer"),
    "jsonl no-break spaces": ("a.jsonl", jsonl(answer="\u00a0\u2003"), "has no answer"),
    "jsonl NaN answer": ("a.jsonl", jsonl(answer=float("nan")), "has no answer"),
    "jsonl infinite answer": ("a.jsonl", jsonl(answer=float("inf")), "not text"),
    "jsonl float answer": ("a.jsonl", jsonl(answer=1.5), "not text"),
    "jsonl true answer": ("a.jsonl", jsonl(answer=True), "not text"),
    "jsonl list answer": ("a.jsonl", jsonl(answer=["a"]), "not text"),
    "jsonl object answer": ("a.jsonl", jsonl(answer={"text": "a"}), "not text"),
    "jsonl list question": ("a.jsonl", jsonl(question=["q"]), "not text"),
    "jsonl list group": ("a.jsonl", jsonl(group=["g"]), "group"),
    "jsonl object group": ("a.jsonl", jsonl(group={}), "group"),
    "jsonl high surrogate": ("a.jsonl", '{"question": "q", "answer": "\\ud83d"}\n', "half of a character"),
    "jsonl low surrogate": ("a.jsonl", '{"question": "q", "answer": "\\ude00 x"}\n', "half of a character"),
    "jsonl reversed pair": ("a.jsonl", '{"question": "\\ude00\\ud83d", "answer": "a"}\n', "half of a character"),
    "jsonl surrogate in a key": ("a.jsonl", '{"\\ud83d": "q", "answer": "a"}\n', "half of a character"),
    "jsonl Latin-1": ("a.jsonl", LINE.replace("Bern", "Zürich").encode("latin-1"), "not UTF-8"),
    "jsonl UTF-16": ("a.jsonl", LINE.encode("utf-16"), "UTF-16"),
    "jsonl UTF-32": ("a.jsonl", LINE.encode("utf-32"), "not UTF-8"),
    "jsonl cut character": ("a.jsonl", LINE.replace("Bern", "Bärn").encode()[:-7] + b"\xc3", "not UTF-8"),
    "jsonl overlong character": ("a.jsonl", b'{"question": "\xc0\x80", "answer": "a"}', "not UTF-8"),
    "jsonl encoded surrogate": ("a.jsonl", b'{"question": "\xed\xa0\x80", "answer": "a"}', "not UTF-8"),
    "jsonl random": ("a.jsonl", bytes(range(256)), "not UTF-8"),
    "jsonl NUL bytes": ("a.jsonl", bytes(1000), "not valid JSON"),
    "jsonl messages word": ("a.jsonl", '{"messages": "hi"}\n', "messages"),
    "jsonl messages of numbers": ("a.jsonl", '{"messages": [1]}\n', "not a list of messages"),
    "jsonl no messages": ("a.jsonl", '{"messages": []}\n', "is empty"),
    "jsonl messages of a tool": ("a.jsonl", '{"messages": [{"role": "tool", "content": "x"}]}\n', "role 'tool'"),
    "jsonl messages without answer": ("a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}\n', "ends with"),
    "jsonl messages deep": ("a.jsonl", json.dumps({"messages": "[" * 100_000}), "messages"),
    "jsonl perturbed word": ("a.jsonl", jsonl(perturbed_answers="[1,"), "perturbed"),
    "jsonl perturbed deep": ("a.jsonl", jsonl(perturbed_answers="[" * 100_000), "perturbed"),
    "jsonl perturbed objects": ("a.jsonl", jsonl(perturbed_answers=[{}]), "perturbed"),
    "jsonl perturbed empty": ("a.jsonl", jsonl(perturbed_answers=["a", ""]), "empty"),
    "json columns of other lengths": ("a.json", '{"question": ["a", "b"], "answer": ["c"]}', "different lengths"),
    "json columns of numbers": ("a.json", '{"question": [1.5], "answer": [2.5]}', "not text"),
    "json empty list": ("a.json", "[]", "no rows"),
    "json empty columns": ("a.json", '{"question": [], "answer": []}', "no rows"),
    "json cut": ("a.json", "[" + LINE, "not valid JSON"),
    "json of HTML": ("a.json", "<!doctype html><html>404</html>", "not valid JSON"),
    "json of a Git LFS pointer": ("a.json", "version https://git-lfs.github.com/spec/v1\n", "not valid JSON"),
    "csv empty": ("a.csv", "", "is empty"),
    "csv header only": ("a.csv", "question,answer\n", "no rows"),
    "csv repeated column": ("a.csv", "question,answer,answer\na,b,c\n", "more than once"),
    "csv semicolons": ("a.csv", "question;answer\na;b\n", "semicolons"),
    "csv tabs": ("a.csv", "question\tanswer\na\tb\n", "tabs"),
    "csv unquoted comma": ("a.csv", "question,answer\na,b,c\n", "3 fields"),
    "csv short line": ("a.csv", "question,answer\na\n", "1 fields"),
    "csv open quote": ("a.csv", 'question,answer\n"a,b\n', "not valid CSV"),
    "csv stray quote": ("a.csv", 'question,answer\n"a"b,c\n', "not valid CSV"),
    "csv other columns": ("a.csv", "a,b\n1,2\n", "no column"),
    "csv empty cell": ("a.csv", "question,answer\na,\n", "has no answer"),
    "csv Latin-1": ("a.csv", "question,answer\na,ü\n".encode("latin-1"), "not UTF-8"),
    "csv escaped surrogate": ("a.csv", b"question,answer\na,\xed\xa0\x80\n", "not UTF-8"),
    "tsv commas": ("a.tsv", "question,answer\na,b\n", "commas"),
    "txt empty": ("a.txt", "\n\n", "is empty"),
    "txt Latin-1": ("a.txt", "ü".encode("latin-1"), "not UTF-8"),
    "txt with min_chars": ("a.txt", "short", "no rows"),
    "gzip cut": ("a.jsonl.gz", gzip.compress(LINE.encode() * 100)[:-20], "damaged gzip"),
    "gzip of rubbish": ("a.jsonl.gz", b"\x1f\x8b" + bytes(100), "damaged gzip"),
    "gzip of nothing": ("a.jsonl.gz", gzip.compress(b""), "is empty"),
    "gzip bomb": ("a.jsonl.gz", None, "100 times its size"),
    "parquet empty": ("a.parquet", b"", "not a readable Parquet"),
    "parquet of text": ("a.parquet", LINE, "not a readable Parquet"),
    "parquet cut": ("a.parquet", GOOD_PARQUET[: len(GOOD_PARQUET) // 2], "not a readable Parquet"),
    "parquet without head": ("a.parquet", GOOD_PARQUET[8:], "a.parquet"),
    "parquet with a wrong footer": ("a.parquet", GOOD_PARQUET[:-8] + b"\xff\xff\xff\x7fPAR1", "not a readable Parquet"),
    "parquet with other bytes": ("a.parquet", GOOD_PARQUET[:40] + bytes(60) + GOOD_PARQUET[100:], "a.parquet"),
    "parquet of magic words": ("a.parquet", b"PAR1" * 4, "not a readable Parquet"),
    "parquet without rows": ("a.parquet", parquet(question=pa.array([], pa.string())), "no rows"),
    "parquet other columns": ("a.parquet", parquet(a=["x"]), "no column"),
    "parquet null": ("a.parquet", parquet(question=["q"], answer=pa.array([None], pa.string())), "has no answer"),
    "parquet bytes": ("a.parquet", parquet(question=["q"], answer=[b"a"]), "not text"),
    "parquet lists": ("a.parquet", parquet(question=["q"], answer=[["a"]]), "not text"),
    "parquet structs": ("a.parquet", parquet(question=["q"], answer=[{"a": 1}]), "not text"),
    "parquet invalid UTF-8": ("a.parquet", invalid_utf8_parquet(), "a.parquet"),
    "unknown suffix": ("a.pkl", b"\x80\x04.", "unsupported suffix"),
    "no suffix": ("rows", LINE, "unsupported suffix"),
    "archive": ("a.zip", b"PK\x03\x04", "unsupported suffix"),
}
"""Name -> file name, content, and words of the message."""

HARMLESS = {
    "byte order mark": "\ufeff" + LINE,
    "byte order mark on each line": "\ufeff" + LINE + "\ufeff" + LINE,
    "Windows line ends": LINE.replace("\n", "\r\n"),
    "no last line break": LINE.strip(),
    "blank lines": "\n\n" + LINE + "\n\n",
    "right to left": jsonl(answer="\u202eשלום עולם\u202c"),
    "emoji": jsonl(answer="👩‍👩‍👧 🏳️‍🌈"),
    "escaped emoji": '{"question": "q", "answer": "\\ud83d\\ude00"}\n',
    "combining marks": jsonl(answer="Z" + "\u0301" * 500),
    "NUL in a text": jsonl(answer="a\x00b"),
    "escape codes in a text": jsonl(answer="\x1b[31mred\x1b[0m"),
    "HTML": jsonl(answer="<script>alert(1)</script>"),
    "template code": jsonl(answer="{{ 7*7 }}{% for %}"),
    "control tokens": jsonl(answer="</s><|im_end|>"),
    "line separators": json.dumps({**ROW, "answer": "a\u2028b\u0085c"}, ensure_ascii=False) + "\n",
    "whole number": jsonl(answer=42),
    "other columns": jsonl(score=float("nan"), tags=[{"a": [None]}], nested={"a": {"b": 1}}),
    "key like a method": jsonl(__class__="x"),
    "cell of 10 MB": jsonl(answer="word " * 2_000_000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_rows(name, tmp_path, refused):
    file, content, words = BROKEN[name]
    path = tmp_path / file
    if content is None:
        with gzip.open(path, "wb", compresslevel=9) as stream:
            for _ in range(150):
                stream.write(bytes(1 << 20))
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(path=str(path), min_chars=100 if "min_chars" in name else None)
    refused(lambda: load_rows(source, "forget"), str(path), words)


@pytest.mark.parametrize("name", HARMLESS)
def test_unusual_but_valid_rows(name, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(HARMLESS[name].encode())
    rows = load_rows(Source(path=str(path)), "forget")
    lines = [line.lstrip("\ufeff") for line in HARMLESS[name].split("\n") if line.strip()]
    assert [row.answer for row in rows] == [str(json.loads(line)["answer"]) for line in lines]


def folder_as_file(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


def endless_device(path):
    path.symlink_to("/dev/zero")


def symlink_loop(path):
    path.symlink_to(path)


def dangling_link(path):
    path.symlink_to(path.with_name("nothing"))


def folder_of_pipes(path):
    path.mkdir()
    os.mkfifo(path / "a.txt")


def folder_of_archives(path):
    path.mkdir()
    (path / "a.zip").write_bytes(b"PK")


def folder_with_a_loop(path):
    path.mkdir()
    (path / "a.txt").symlink_to(path)


TRICKS = (
    folder_as_file,
    pipe,
    endless_device,
    symlink_loop,
    dangling_link,
    folder_of_pipes,
    folder_of_archives,
    folder_with_a_loop,
)


@pytest.mark.parametrize("make", TRICKS, ids=lambda make: make.__name__)
def test_path_that_is_no_file(make, tmp_path, refused):
    path = tmp_path / "a.jsonl"
    make(path)
    refused(lambda: load_rows(Source(path=str(path)), "forget"), str(path))


PATHS = ["", "a" * 5000 + ".jsonl", "./" + "a/" * 3000, "~nosuchuser/a.jsonl", "a\x00b.jsonl", "../../nothing.jsonl"]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_impossible_path(path, refused):
    refused(lambda: load_rows(Source(path=path), "forget"))


def test_malformed_rows_on_the_command_line(cli, recipe_file, tmp_path):
    (tmp_path / "forget.jsonl").write_text('{"question": "q", "answer": "\\ud83d"}\n')
    before = snapshot(tmp_path)
    outcome = cli("run", recipe_file, "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert "half of a character" in outcome.err
    assert "Traceback" not in outcome.err
    assert {name: digest for name, digest in snapshot(tmp_path).items() if name in before} == before
