"""Local multiple-choice questions: folder, files and validation of rows."""

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
    path = write(tmp_path / "x_test.jsonl", {**GOOD, "id": "ignored"}, {**GOOD, "passage": "Sums."})
    file = read_questions(path, "test", Layout("x"))
    assert file.questions == (Question("Two and two?", ("three", "four"), 1),) * 2
    passages = read_questions(
        write(tmp_path / "y.jsonl", {**GOOD, "passage": "Sums."}), "test", Layout("y", passage=True)
    )
    assert passages.questions[0].passage == "Sums."


def test_hash_depends_on_content_and_order(tmp_path):
    different = {**GOOD, "answer": 0}
    hashes = {
        read_questions(write(tmp_path / f"{i}.jsonl", *rows), "test", Layout("x")).hash
        for i, rows in enumerate([(GOOD, different), (different, GOOD), (GOOD, GOOD)])
    }
    assert len(hashes) == 3
    copy = read_questions(write(tmp_path / "copy.jsonl", GOOD, different), "test", Layout("x"))
    assert copy.hash in hashes


@pytest.mark.parametrize(
    ("row", "layout", "problem"),
    [
        ({**GOOD, "question": " "}, Layout("x"), "'question' must be a string with text"),
        ({**GOOD, "choices": "ab"}, Layout("x"), "'choices' must be a list of at least two non-empty strings"),
        ({**GOOD, "choices": ["one"]}, Layout("x"), "'choices' must be a list of at least two non-empty strings"),
        ({**GOOD, "choices": ["one", 2]}, Layout("x"), "'choices' must be a list of at least two non-empty strings"),
        ({**GOOD, "choices": ["one", ""]}, Layout("x"), "'choices' must be a list of at least two non-empty strings"),
        (GOOD, Layout("x", num_choices=4), "has 2 choices, but its task has 4"),
        (GOOD, Layout("x", choices=("no", "yes")), "'choices' must be ['no', 'yes']"),
        ({**GOOD, "answer": 2}, Layout("x"), "0 to 1, got 2"),
        ({**GOOD, "answer": -1}, Layout("x"), "0 to 1, got -1"),
        ({**GOOD, "answer": True}, Layout("x"), "0 to 1, got True"),
        ({**GOOD, "answer": "B"}, Layout("x"), "0 to 1, got 'B'"),
        ({"question": "?", "choices": ["a", "b"]}, Layout("x"), "got nothing"),
        (GOOD, Layout("x", passage=True), "'passage' must be a string with text, got nothing"),
        (GOOD, Layout("x", blank=True), "no '_' for the choices"),
        ("{", Layout("x"), "not valid JSON"),
        ("5", Layout("x"), "is a number"),
    ],
)
def test_malformed_row_raises_with_its_line(tmp_path, row, layout, problem):
    path = write(tmp_path / "x_test.jsonl", "", row)
    with pytest.raises(DataError) as raised:
        read_questions(path, "test", layout)
    assert f"{path}, line 2" in str(raised.value)
    assert problem in str(raised.value)


def test_file_without_rows_raises(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        read_questions(write(tmp_path / "x_test.jsonl", "  "), "test", Layout("x"))


def test_test_split_is_preferred(tmp_path):
    for name in ("a_val_100.jsonl", "b_val.jsonl", "b_test.jsonl", "c_xl_validation.jsonl", "d.jsonl", "bb_test.jsonl"):
        write(tmp_path / name, GOOD)
    matches = {stem: find_file(tmp_path, stem) for stem in "abcd"}
    assert {stem: match and (match[0].name, match[1]) for stem, match in matches.items()} == {
        "a": ("a_val_100.jsonl", "validation"),
        "b": ("b_test.jsonl", "test"),
        "c": ("c_xl_validation.jsonl", "validation"),
        "d": None,
    }


def test_ambiguous_files_raise(tmp_path):
    write(tmp_path / "mmlu/law_val_10.jsonl", GOOD)
    write(tmp_path / "mmlu/law_val_20.jsonl", GOOD)
    with pytest.raises(DataError, match=r"law_val_10\.jsonl, law_val_20\.jsonl"):
        find_file(tmp_path, "mmlu/law")
    write(tmp_path / "mmlu/law_val.jsonl", GOOD)
    assert find_file(tmp_path, "mmlu/law")[0].name == "law_val.jsonl"


def test_question_folder(tmp_path, monkeypatch):
    """'auto' is the folder in the environment variable, else the hub; the working directory is not searched."""
    monkeypatch.delenv("EXPUNGE_MCQ", raising=False)
    work = tmp_path / "repository"
    (work / "data" / "mcq").mkdir(parents=True)
    monkeypatch.chdir(work)
    assert question_folder("auto") is None
    folder = tmp_path / "questions"
    monkeypatch.setenv("EXPUNGE_MCQ", str(folder))
    with pytest.raises(DataError, match=r"questions \(from EXPUNGE_MCQ\) does not exist"):
        question_folder("auto")
    folder.mkdir()
    assert question_folder("auto") == folder
    assert question_folder("hub") is None
    assert question_folder(str(work)) == work
    with pytest.raises(DataError, match=r"absent does not exist\. Allowed: a folder of JSONL files.*EXPUNGE_MCQ"):
        question_folder("absent")
