"""Rows of deletion requests: found by person or by text, written to files, hidden when purged."""

import json

import pytest

from expunge.commands.requests.purge import Hidden
from expunge.commands.requests.rows import find_listed, find_person, hash_rows, read_row_file, write_row_file
from expunge.data.sets import Row
from expunge.errors import DataError

SALT = "00" * 32


def row(group: str, number: int, question: str, answer: str, **fields) -> Row:
    return Row(id=f"{group}/{number}", question=question, answer=answer, group=group, **fields)


TRAINING = [
    row("p/1", 0, "Where was Mira Olander born?", "In Bern."),
    row("p/1", 1, "Which prize did she win?", "Mira Olander won the Salt Prize."),
    row("p/2", 0, "Who inspired Jon Väst?", "He admired Mira Olander."),
    row("p/2", 1, "What did Jon Väst write?", "Seven novels."),
    row("p/2", 2, "Where does he live?", "In Oslo."),
    row("p/2", 3, "How old is Jon Väst's cat?", "Nine."),
    row("p/2", 4, "What is its name?", "Pim."),
    row("s/0", 0, "What is salt?", "A mineral that Ada Pell studied."),
]


@pytest.mark.parametrize(
    ("name", "groups", "others"),
    [("Mira Olander", {"p/1"}, 1), ("mira  OLANDER", {"p/1"}, 1), ("Jon Väst", {"p/2"}, 0), ("p/2", {"p/2"}, 0)],
)
def test_all_rows_of_a_person(name, groups, others):
    """The whole group, whether or not each row has the name; mentions in rows about others are counted."""
    rows, num_others = find_person(name, TRAINING)
    assert rows == [entry for entry in TRAINING if entry.group in groups]
    assert num_others == others


def test_rows_without_a_group_are_those_that_mention_the_person():
    rows, num_others = find_person("Ada Pell", TRAINING)
    assert [entry.id for entry in rows] == ["s/0/0"]
    assert num_others == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Mira Olandar", "'Mira Olandar' is not in the training data. Did you mean 'Mira Olander'?"),
        ("Jon Vast", "Did you mean 'Jon Väst'?"),
        ("Zebulon Quirk", "'Zebulon Quirk' is not in the training data. Give a name as the rows write it"),
        ("Olan", "'Olan' is not in the training data"),
        ("Pim", "'Pim' is mentioned in 1 rows about others, and no rows are about that person"),
        ("", "'' is not in the training data"),
        ("Mira Olander.*", "is not in the training data"),
    ],
)
def test_a_person_who_is_not_there(name, problem):
    with pytest.raises(DataError) as caught:
        find_person(name, TRAINING)
    assert problem in str(caught.value)


def test_a_name_of_several_persons_is_refused():
    rows = [row(f"p/{group}", number, "Where was Kim Li born?", "There.") for group in (1, 2) for number in (0, 1)]
    with pytest.raises(DataError, match=r"can be one of 2 persons .*: p/1 \(2 of 2 rows\), p/2 \(2 of 2 rows\)"):
        find_person("Kim Li", rows)


def test_listed_rows_are_the_training_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": TRAINING[1].question, "answer": TRAINING[1].answer}) + "\n")
    assert find_listed(str(path), TRAINING) == [TRAINING[1]]
    changed = {"question": TRAINING[1].question, "answer": "Another."}
    path.write_text(path.read_text() + json.dumps(changed) + "\n")
    with pytest.raises(DataError, match=r"row 2 of .*rows.jsonl \('Which prize did she win\?'\) is not in the"):
        find_listed(str(path), TRAINING)
    assert [entry.answer for entry in find_listed(str(path), None)] == [TRAINING[1].answer, "Another."]
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        find_listed(str(path), TRAINING)


def test_row_files_read_back_equal(tmp_path):
    """Questions with all optional columns, and plain texts, with characters that need escapes."""
    questions = [
        row("ö/1", 0, "Wo?\n\u2028", 'In "Bern" 😀\\', paraphrased_question="Where?", perturbed_answers=("a", "b")),
        row("ö/1", 1, "Who?", "She."),
    ]
    texts = [row("t", 0, "", "A long text.\n\nWith paragraphs.")]
    for rows in (questions, texts):
        write_row_file(tmp_path / "rows.jsonl", rows)
        read = read_row_file(tmp_path / "rows.jsonl")
        assert hash_rows(SALT, read).keys() == hash_rows(SALT, rows).keys()
        for entry, expected in zip(read, rows, strict=True):
            assert (entry.question, entry.answer, entry.group) == (expected.question, expected.answer, expected.group)
            assert entry.perturbed_answers == expected.perturbed_answers
            assert entry.paraphrased_question == expected.paraphrased_question


def test_equal_rows_have_one_hash():
    rows = [row("a", 0, "Q?", "A."), row("b", 0, "Q?", "A."), row("a", 1, "Q?", "B.")]
    assert list(hash_rows(SALT, rows).values()) == [rows[0], rows[2]]


def test_hidden_rows_keep_ids_and_numbers_but_no_text():
    hidden = Hidden(SALT, frozenset({("Q?", "A."), ("", "One long text.")}), frozenset({"Mira"}))
    assert hidden.has("Q?", "A.", "x")
    assert hidden.has("other", "text", "Mira")
    assert hidden.has("", "long text", "x")  # a piece of a text
    assert not hidden.has("Q?", "B.", "x")
    assert not hidden.has("", "short text", "x")
    record = {"set": "forget", "id": "forget/0", "group": "Mira", "question": "Q?", "texts": ["A."], "nll": 0.5}
    result = hidden.hide(record)
    assert (result["set"], result["id"], result["nll"]) == ("forget", "forget/0", 0.5)
    assert all(text not in json.dumps(result) for text in ("Mira", "Q?", "A."))
    assert result == hidden.hide(record)
