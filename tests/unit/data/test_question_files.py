"""Local multiple-choice questions: where they are found, and which rows are refused."""

import json

import pytest

from expunge.data.mcq import Layout, Question, find_file, question_folder, read_questions
from expunge.errors import DataError

GOOD = {"question": "Two and two?", "choices": ["three", "four"], "answer": 1}


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_become_questions(tmp_path):
    path = write(tmp_path / "x_test.jsonl", {**GOOD, "id": "left out"}, {**GOOD, "passage": "Sums."})
    found = read_questions(path, "test", Layout("x"))
    assert found.questions == (Question("Two and two?", ("three", "four"), 1),) * 2
    passages = read_questions(
        write(tmp_path / "y.jsonl", {**GOOD, "passage": "Sums."}), "test", Layout("y", passage=True)
    )
    assert passages.questions[0].passage == "Sums."


def test_hash_sees_content_and_order(tmp_path):
    other = {**GOOD, "answer": 0}
    hashes = {
        read_questions(write(tmp_path / f"{i}.jsonl", *rows), "test", Layout("x")).hash
        for i, rows in enumerate([(GOOD, other), (other, GOOD), (GOOD, GOOD)])
    }
    assert len(hashes) == 3
    again = read_questions(write(tmp_path / "copy.jsonl", GOOD, other), "test", Layout("x"))
    assert again.hash in hashes


@pytest.mark.parametrize(
    ("row", "layout", "problem"),
    [
        ({**GOOD, "question": " "}, Layout("x"), "'question' has to be a text"),
        ({**GOOD, "choices": "ab"}, Layout("x"), "'choices' has to be a list of at least two texts"),
        ({**GOOD, "choices": ["one"]}, Layout("x"), "'choices' has to be a list of at least two texts"),
        ({**GOOD, "choices": ["one", 2]}, Layout("x"), "'choices' has to be a list of at least two texts"),
        ({**GOOD, "choices": ["one", ""]}, Layout("x"), "'choices' has to be a list of at least two texts"),
        (GOOD, Layout("x", num_choices=4), "has 2 choices, but this task has 4"),
        (GOOD, Layout("x", choices=("no", "yes")), "'choices' has to be ['no', 'yes']"),
        ({**GOOD, "answer": 2}, Layout("x"), "0 to 1, got 2"),
        ({**GOOD, "answer": -1}, Layout("x"), "0 to 1, got -1"),
        ({**GOOD, "answer": True}, Layout("x"), "0 to 1, got True"),
        ({**GOOD, "answer": "B"}, Layout("x"), "0 to 1, got 'B'"),
        ({"question": "?", "choices": ["a", "b"]}, Layout("x"), "got nothing"),
        (GOOD, Layout("x", passage=True), "'passage' has to be a text, got nothing"),
        (GOOD, Layout("x", blank=True), "no '_' for the choices"),
        ("{", Layout("x"), "not valid JSON"),
        ("5", Layout("x"), "is a number"),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, layout, problem):
    path = write(tmp_path / "x_test.jsonl", "", row)
    with pytest.raises(DataError) as raised:
        read_questions(path, "test", layout)
    assert f"{path}, line 2" in str(raised.value)
    assert problem in str(raised.value)


def test_a_file_without_rows(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        read_questions(write(tmp_path / "x_test.jsonl", "  "), "test", Layout("x"))


def test_the_test_split_goes_first(tmp_path):
    for name in ("a_val_100.jsonl", "b_val.jsonl", "b_test.jsonl", "c_xl_validation.jsonl", "d.jsonl", "bb_test.jsonl"):
        write(tmp_path / name, GOOD)
    found = {stem: find_file(tmp_path, stem) for stem in "abcd"}
    assert {stem: place and (place[0].name, place[1]) for stem, place in found.items()} == {
        "a": ("a_val_100.jsonl", "validation"),
        "b": ("b_test.jsonl", "test"),
        "c": ("c_xl_validation.jsonl", "validation"),
        "d": None,
    }


def test_two_files_of_one_task(tmp_path):
    write(tmp_path / "mmlu/law_val_10.jsonl", GOOD)
    write(tmp_path / "mmlu/law_val_20.jsonl", GOOD)
    with pytest.raises(DataError, match=r"law_val_10\.jsonl, law_val_20\.jsonl"):
        find_file(tmp_path, "mmlu/law")
    write(tmp_path / "mmlu/law_val.jsonl", GOOD)
    assert find_file(tmp_path, "mmlu/law")[0].name == "law_val.jsonl"


def test_where_auto_looks(tmp_path, monkeypatch):
    """The variable, then data/mcq, shared/data/mcq, ../shared/data/mcq of the working folder, then the hub."""
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    work = tmp_path / "repository"
    work.mkdir()
    monkeypatch.chdir(work)
    assert question_folder("auto") is None
    for place in ("../shared/data/mcq", "shared/data/mcq", "data/mcq"):
        (work / place).mkdir(parents=True)
        assert str(question_folder("auto")) == place
    named = tmp_path / "named"
    monkeypatch.setenv("EXPUNGE_DATA", str(named))
    with pytest.raises(DataError, match=r"named \(from EXPUNGE_DATA\) does not exist"):
        question_folder("auto")
    named.mkdir()
    assert question_folder("auto") == named
    assert question_folder("hub") is None
    assert question_folder(str(work)) == work
    with pytest.raises(DataError, match="gone does not exist"):
        question_folder("gone")
