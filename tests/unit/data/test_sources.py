"""Rows from files of every format, and the errors of invalid input."""

import datetime
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from expunge.config.recipe import FilesData, Source
from expunge.data.prepare import prepare_sets
from expunge.data.sources.rows import load_rows
from expunge.errors import DataError

PAIRS = [
    {"question": "Who is Ann?", "answer": "A baker, \u2028of bread."},
    {"question": "Who is Bo?", "answer": "A potter."},
]


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def assert_raises(path, match, **settings):
    """Return the error message of loading a file."""
    with pytest.raises(DataError, match=match) as raised:
        load_rows(Source(path=str(path), **settings), "forget")
    return str(raised.value)


def json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.fixture(params=["list.json", "lines.json", "lines.jsonl", "rows.csv", "rows.parquet"])
def pairs_file(request, tmp_path):
    """The same two rows in every format."""
    path = tmp_path / request.param
    if request.param == "list.json":
        return write(path, json.dumps(PAIRS, indent=2))
    if request.param == "rows.csv":
        return write(path, 'question,answer\nWho is Ann?,"A baker, \u2028of bread."\n\nWho is Bo?,A potter.\n')
    if request.param == "rows.parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(PAIRS), path)
        return str(path)
    return write(path, "\ufeff" + json_lines(PAIRS).replace("\n", "\r\n") + "\n\n")


def test_every_format_gives_the_same_rows(pairs_file):
    rows = load_rows(Source(path=pairs_file), "forget")
    assert [(row.question, row.answer) for row in rows] == [(p["question"], p["answer"]) for p in PAIRS]
    assert [row.id for row in rows] == ["forget/0", "forget/1"]
    assert [row.group for row in rows] == ["forget/0", "forget/1"]
    assert len(load_rows(Source(path=pairs_file, limit=1), "forget")) == 1


def test_mapped_columns_and_variants(tmp_path):
    row = {
        "q": "Who?",
        "a": "Ann.",
        "who": 7,
        "paraphrased_answer": "It is Ann.",
        "perturbed_answer": ["Bo.", "Cy."],
    }
    path = write(tmp_path / "rows.jsonl", json.dumps(row))
    (loaded,) = load_rows(Source(path=path, columns={"question": "q", "answer": "a", "group": "who"}), "retain")
    assert (loaded.question, loaded.answer, loaded.group) == ("Who?", "Ann.", "7")
    assert (loaded.paraphrased_question, loaded.paraphrased_answer) == ("", "It is Ann.")
    assert loaded.perturbed_answers == ("Bo.", "Cy.")


def test_perturbed_answers_in_csv(tmp_path):
    text = 'question,answer,perturbed_answers\nWho?,Ann.,"[""Bo."", ""Cy.""]"\nWhy?,So.,Thus.\nHow?,Well.,\n'
    rows = load_rows(Source(path=write(tmp_path / "rows.csv", text)), "forget")
    assert [row.perturbed_answers for row in rows] == [("Bo.", "Cy."), ("Thus.",), ()]


def test_unnamed_csv_columns_are_ignored(tmp_path):
    """pandas writes its index as a column without a name."""
    path = write(tmp_path / "rows.csv", ",text\n0,Once.\n")
    (row,) = load_rows(Source(path=path), "forget")
    assert (row.question, row.answer, row.group, row.perturbed_answers) == ("", "Once.", "forget/0", ())


def test_plain_text(tmp_path):
    """A text file gives one row per paragraph, a folder one row per file, and a column `text` one row per record."""
    folder = tmp_path / "texts"
    folder.mkdir()
    write(folder / "b.md", "Second file.\n")
    write(folder / "a.txt", "First.\n\nStill the first file.")
    write(folder / ".hidden", "no")
    rows = load_rows(Source(path=str(folder)), "forget")
    assert [(row.question, row.answer) for row in rows] == [
        ("", "First.\n\nStill the first file."),
        ("", "Second file."),
    ]
    assert [(row.id, row.group) for row in rows] == [("forget/0", "a"), ("forget/1", "b")]
    rows = load_rows(Source(path=write(tmp_path / "book.txt", "One\ntwo.\r\n \r\nThree.\n\n\n")), "forget")
    assert [row.answer for row in rows] == ["One\ntwo.", "Three."]
    path = write(tmp_path / "rows.jsonl", '{"body": "Once.", "answer": "no"}')
    assert load_rows(Source(path=path, columns={"text": "body"}), "forget")[0].answer == "Once."


def test_hub_settings_are_passed_on(monkeypatch):
    calls = []

    def load_dataset(path, config, split, revision):
        calls.append((path, config, split, revision))
        return PAIRS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load_rows(Source(path="some/data", config="part", split="test", revision="abc"), "forget")
    load_rows(Source(path="some/data"), "forget")
    assert calls == [("some/data", "part", "test", "abc"), ("some/data", None, "train", None)]
    assert rows[1].answer == "A potter."


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.json", "[]", "has no rows"),
        ("a.csv", "question,answer\n", "has no rows"),
        (
            "a.jsonl",
            '{"question": "Q?", "answer": "A"}\n{"question": ',
            r"a\.jsonl, line 2 is not valid JSON",
        ),
        ("a.json", '[\n{"question": "Q?"},\n oops]', r"a\.json, line 3 is not valid JSON"),
        ("a.jsonl", '{"question": "Q?", "answer": "A"}\n\n["Q?", "A"]', r"line 3 is a list, not an object"),
        (
            "a.jsonl",
            '{"question": "Q?", "answer": "A"}\n{"question": "R?", "answer": " "}',
            r"line 2 has no answer",
        ),
        ("a.jsonl", '{"question": "Q?", "answer": "A"}\n{"question": "R?"}', r"line 2 has no answer"),
        ("a.json", '[{"question": "Q?", "answer": null}]', r"a\.json, row 1 has no answer"),
        ("a.jsonl", '{"question": "", "answer": "A"}', r"line 1 has no question"),
        ("a.jsonl", '{"question": "Q?", "answer": {"x": 1}}', r"line 1: 'answer' is a dict, not text"),
        ("a.jsonl", '{"question": "Q?", "answer": true}', r"'answer' is a bool, not text"),
        ("a.jsonl", '{"text": ""}', r"line 1 has no text"),
        (
            "a.jsonl",
            '{"question": "Q?", "answer": "A", "perturbed_answers": ["B", ""]}',
            "perturbed answers is empty",
        ),
        ("a.csv", 'question,answer\n"Q?\nmore",A\nR?\n', r"a\.csv, line 4 has 1 fields, but .* 2 columns"),
        ("a.csv", 'question,answer\nQ?,"A', r"a\.csv, line 2 is not valid CSV"),
        ("a.csv", "answer,answer\nQ?,A\n", r"line 1 names the column 'answer' more than once"),
        (
            "a.jsonl",
            b'{"question": "Q?",\n "answer": "caf\xe9"}',
            r"a\.jsonl, line 2 is not UTF-8 text \(byte 0xe9\)",
        ),
        ("a.jsonl", "Q".encode("utf-16"), "is not UTF-8"),
        ("a.parquet", "no parquet", r"a\.parquet is not a readable Parquet file"),
        ("a.xlsx", "no", r"has the unsupported suffix '\.xlsx'\. Allowed: \.json, "),
        ("a.jsonl", "[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_malformed_content_raises_with_its_location(tmp_path, file, content, match):
    assert_raises(write(tmp_path / file, content), match)


def test_missing_columns_raise(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"prompt": "Q?", "respons": "A"}')
    message = assert_raises(path, "has no column 'question'")
    assert "prompt, respons" in message
    message = assert_raises(path, "has no column 'response'", columns={"question": "prompt", "answer": "response"})
    assert "Its columns: prompt, respons." in message
    assert "Did you mean 'respons'?" in message
    assert "Did you mean 'answer'?" in assert_raises(path, "there is no field 'anser'", columns={"anser": "respons"})
    assert_raises(path, "both text and question or answer are mapped", columns={"text": "prompt", "answer": "respons"})


def test_unreadable_paths_raise(tmp_path):
    assert_raises(tmp_path / "absent.jsonl", r"absent\.jsonl does not exist")
    assert_raises("rows.csv", "does not exist")
    assert_raises("./folder", "does not exist")
    assert_raises(write(tmp_path / "a.txt", "text"), "split has no effect", split="test")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_raises(empty, "contains no text files")
    write(empty / "scan.pdf", "x")
    assert_raises(empty, r"contains scan\.pdf")


def test_hub_failure_raises(monkeypatch):
    def load_dataset(*_, **__):
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = assert_raises("some/data", r"'some/data' \(split train\) is no local file or folder")
    assert "Config name is missing." in message
    assert "give its local path" in message


def files(tmp_path, **contents):
    sources = {name: Source(path=write(tmp_path / f"{name}.jsonl", text)) for name, text in contents.items()}
    return FilesData(**sources)


def test_sets_of_user_files(tmp_path):
    config = files(tmp_path, forget=json_lines(PAIRS[:1]), retain=json_lines(PAIRS[1:]), holdout=json_lines(PAIRS))
    sets = prepare_sets(config)
    assert (len(sets.forget), len(sets.retain), len(sets.holdout)) == (1, 1, 2)
    assert sets.evaluation == {"forget": sets.forget, "retain": sets.retain}
    changed = prepare_sets(files(tmp_path, forget=json_lines(PAIRS[1:]), retain=json_lines(PAIRS[:1])))
    assert sets.name.startswith("files/")
    assert sets.name != changed.name


def test_forget_set_alone(tmp_path):
    sets = prepare_sets(files(tmp_path, forget=json_lines(PAIRS)))
    assert (sets.retain, sets.holdout, list(sets.evaluation)) == (None, None, ["forget"])


def test_sets_without_meaningful_unlearning_raise(tmp_path):
    with pytest.raises(DataError, match=r"forget\.jsonl is empty"):
        prepare_sets(files(tmp_path, forget="\n", retain=json_lines(PAIRS)))
    with pytest.raises(DataError, match="nothing can be forgotten"):
        prepare_sets(files(tmp_path, forget=json_lines(PAIRS), retain=json_lines(PAIRS[::-1])))


def compressed(path, content):
    path.write_bytes(gzip.compress(content.encode()))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'question\tanswer\nWho is Ann?\t"A baker, \u2028of bread."\nWho is Bo?\tA potter.\n'),
        ("a.json", json.dumps({name: [row[name] for row in PAIRS] for name in ("question", "answer")}, indent=1)),
        ("a.json", json.dumps({name: {str(i): row[name] for i, row in enumerate(PAIRS)} for name in PAIRS[0]})),
        ("a.json", json.dumps({"columns": ["question", "answer"], "data": [list(row.values()) for row in PAIRS]})),
        ("a.jsonl", "\n\ufeff".join(json.dumps(row) for row in PAIRS)),
        ("a.json", "[" + ",\n".join(json.dumps(row, indent=2) for row in PAIRS) + "]"),
    ],
    ids=["tsv", "columns", "pandas columns", "pandas split", "joined files", "list"],
)
def test_more_formats_give_the_same_rows(tmp_path, name, content):
    expected = [(row["question"], row["answer"]) for row in PAIRS]
    for path in (write(tmp_path / name, content), compressed(tmp_path / f"{name}.gz", content)):
        assert [(row.question, row.answer) for row in load_rows(Source(path=path), "forget")] == expected


def test_compressed_text_and_damaged_archives(tmp_path):
    path = compressed(tmp_path / "book.txt.gz", "One.\n\nTwo.")
    assert [row.answer for row in load_rows(Source(path=path), "forget")] == ["One.", "Two."]
    content = gzip.compress(json_lines(PAIRS).encode())
    assert_raises(write(tmp_path / "a.jsonl.gz", content[:-9]), r"a\.jsonl\.gz is a damaged gzip file")
    assert_raises(write(tmp_path / "a.parquet.gz", content), r"unsupported suffix '\.gz'")
    assert_raises("absent.jsonl.gz", "does not exist")


def test_one_object_over_several_lines_is_one_row(tmp_path):
    path = write(tmp_path / "a.json", json.dumps(PAIRS[0], indent=2))
    assert [row.answer for row in load_rows(Source(path=path), "forget")] == [PAIRS[0]["answer"]]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.json", '{"question": ["Q?", "R?"], "answer": ["A"]}', "different lengths: question 2, answer 1"),
        ("a.csv", "question;answer\nQ?;A\n", "names one column, 'question;answer', .* separated by semicolons"),
        ("a.csv", "question\tanswer\nQ?\tA\n", "separated by tabs.*rename the file to .tsv"),
        ("a.tsv", "question,answer\nQ?,A\n", "separated by commas"),
        ("a.tsv", "question\tanswer\nQ?\n", "has 1 fields, but .* 2 columns.*contains a tab"),
        ("a.jsonl", "Q".encode("utf-16"), "begins like a file in UTF-16"),
        ("a.jsonl", '{"question": "Q?", "answer": NaN}', "line 1 has no answer"),
        ("a.jsonl", '{"question": "Q?", "answer": 3.5}', "'answer' is a float, not text"),
        ("a.jsonl", '{"question": "Q?", "answer": "A", "group": ["a"]}', "'group' is a list, but a group is"),
    ],
)
def test_unsuitable_content_raises_with_its_reason(tmp_path, name, content, match):
    assert_raises(write(tmp_path / name, content), match)


@pytest.mark.parametrize("broken", [r"\ud83d", r"\ude00", r"\ud83d\ud83d\ude00", r"\ud83dx\ude00", r"\\\ud83d"])
def test_half_characters_raise_with_file_and_line(tmp_path, broken):
    """Half of a surrogate pair, as texts have it that were cut at a fixed length; found when the file is read."""
    good = '{"question": "Q?", "answer": "A \\ud83d\\ude00 and \\\\ud83d"}'
    bad = f'{{"question": "Q?",  "answer": "A {broken}."}}'
    assert_raises(write(tmp_path / "a.jsonl", f"{good}\n\n{bad}\n{good}"), r"a\.jsonl, line 3 contains \\ud[8e]")
    assert_raises(write(tmp_path / "a.json", f"[\n{good},\n{good},\n{bad}]"), r"a\.json, line 4 contains \\ud[8e]")
    columns = f'{{"question": ["Q?"],\n "answer": ["A {broken}"]}}'
    assert_raises(write(tmp_path / "b.json", columns), r"b\.json, line 2 contains")
    cell = f'question,answer,perturbed_answers\nQ?,A,"[""{broken}""]"\n'
    assert_raises(write(tmp_path / "a.csv", cell), r"a\.csv, line 2: 'perturbed_answers' contains \\ud[8e]")
    (row,) = load_rows(Source(path=write(tmp_path / "good.jsonl", good)), "forget")
    assert row.answer == "A \U0001f600 and \\ud83d"


def test_broken_text_of_parquet_files_raises(tmp_path):
    array = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\x03\0\0\0"), pa.py_buffer(b"\xed\xa0\xbd"))
    pyarrow.parquet.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    assert_raises(tmp_path / "a.parquet", "is not a readable Parquet file")


def test_long_fields_of_csv_files(tmp_path):
    text = "word " * 40_000
    (row,) = load_rows(Source(path=write(tmp_path / "a.csv", f"text\n{text}\n")), "forget")
    assert row.answer == text


def test_groups_may_be_numbers_and_dates(tmp_path):
    """7, 7.0 and "7" are one group; a missing group is a group of its own."""
    groups = [7, 7.0, "7", 1.5, True, None, float("nan"), "2024-05-01"]
    lines = "\n".join(json.dumps({"text": "Once.", "group": group}) for group in groups)
    rows = load_rows(Source(path=write(tmp_path / "a.jsonl", lines)), "forget")
    assert [row.group for row in rows] == ["7", "7", "7", "1.5", "true", "forget/5", "forget/6", "2024-05-01"]
    table = pa.table({"text": ["a", "b"], "group": [datetime.date(2024, 5, 1), None], "n": [7.0, None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert [row.group for row in load_rows(Source(path=path), "f")] == ["2024-05-01", "f/1"]
    assert [row.group for row in load_rows(Source(path=path, columns={"group": "n"}), "f")] == ["7", "f/1"]


def message(role, content):
    return {"role": role, "content": content}


def conversation(*contents):
    return [message(role, text) for role, text in zip(("user", "assistant") * 9, contents, strict=False)]


@pytest.fixture
def notes(monkeypatch):
    messages = []
    monkeypatch.setattr("expunge.data.sources.rows.note", messages.append)
    return messages


def test_chat_messages(tmp_path, notes):
    single = conversation("Who?", "Ann.")
    parts = [message("user", [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]), single[1]]
    sharegpt = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann."}]
    for rows in ([{"messages": single}], [{"messages": parts}], [{"messages": sharegpt}]):
        for path in (tmp_path / "a.jsonl", tmp_path / "a.json"):
            content = json_lines(rows) if path.suffix == ".jsonl" else json.dumps(rows)
            (row,) = load_rows(Source(path=write(path, content)), "forget")
            assert (row.question, row.answer, row.id) == ("Who?", "Ann.", "forget/0")
    path = write(tmp_path / "b.jsonl", json_lines([{"chat": single, "text": "x", "who": 3}]))
    (row,) = load_rows(Source(path=path, columns={"messages": "chat", "group": "who"}), "forget")
    assert (row.question, row.answer, row.group) == ("Who?", "Ann.", "3")
    columns = json.dumps({"messages": [single, single]})
    assert len(load_rows(Source(path=write(tmp_path / "c.json", columns)), "forget")) == 2
    assert notes == []


def test_the_last_turn_of_a_conversation_is_read_and_the_rest_is_noted(tmp_path, notes):
    turns = conversation("Hello!", "Hi.", "Who?", "Ann.")
    rows = [{"messages": turns}, {"messages": [message("system", "Be brief."), *turns[2:]]}, {"messages": turns[2:]}]
    loaded = load_rows(Source(path=write(tmp_path / "a.jsonl", json_lines(rows))), "forget")
    assert [(row.question, row.answer) for row in loaded] == [("Who?", "Ann.")] * 3
    (text,) = notes
    assert "2 of 3 conversations" in text
    assert "Only their last question and the answer to it are used" in text


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        (conversation("Who?"), "ends with a message of the role 'user'"),
        ([], "'messages' is empty"),
        ([message("assistant", "Hi.")], "no question before its last answer"),
        ([message("user", "A"), *conversation("Who?", "Ann.")], "two user messages in a row"),
        ([*conversation("Who?"), message("tool", "Ann.")], "a message of the role 'tool'"),
        (conversation("Who?", ""), "line 1 has no answer"),
        ([message("user", [{"type": "image", "url": "x"}]), message("assistant", "A")], "a part of the type 'image'"),
        ("Who?", "is not valid JSON"),
        (["Who?"], "is not a list of messages"),
    ],
)
def test_unsuitable_messages_raise(tmp_path, messages, match):
    assert_raises(write(tmp_path / "a.jsonl", json.dumps({"messages": messages})), match)


def test_questions_and_answers_are_preferred_to_messages(tmp_path):
    row = {**PAIRS[0], "messages": conversation("Other?", "Other.")}
    (loaded,) = load_rows(Source(path=write(tmp_path / "a.jsonl", json.dumps(row))), "forget")
    assert loaded.question == PAIRS[0]["question"]
    assert_raises(tmp_path / "a.jsonl", "both messages and another text", columns={"messages": "a", "text": "b"})
