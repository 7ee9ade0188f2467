"""The ledger of deletion requests: its chain, its locks, and the rows of a request."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.commands.requests.hashing import canonical_json, content_hash, salted_hash
from expunge.commands.requests.ledger import Ledger
from expunge.config.load import load_recipe
from expunge.errors import DataError
from expunge.records.requests import Applied, Opened, Requested

SALT = "00" * 32


def request(name: str, *rows: str) -> Requested:
    return Requested(id=name, received="2026-01-31", by="rows", rows=list(rows))


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """A ledger with two requests, the first of which was unlearned."""
    ledger = Ledger(tmp_path / "requests")
    opened = Opened(recipe="", model="m", knows_training_data=True, salt=SALT)
    ledger.open(opened, load_recipe("quickstart"))
    applied = Applied(id="a", run="runs/a", model_files={"model.safetensors": "1" * 64}, code="2" * 64)
    for event in (request("a", "aa", "ab"), request("b", "ba"), applied):
        with ledger.writing() as history:
            ledger.append(history, event)
    return ledger


def test_canonical_json_reads_back_equal():
    """One text per value: whatever the order of keys; reading and writing again changes no byte."""
    value = {"b": [0.1, 1e-300, 1, True, None], "a": {"é\u2028😀": '\\"\n', "": -0.0}}
    text = canonical_json(value)
    assert text == canonical_json(dict(reversed(value.items())))
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_salted_hashes_are_those_of_hmac():
    """By RFC 4231's definition: HMAC-SHA256(key, canonical JSON), here computed by openssl's command line."""
    expected = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{SALT}"],
        input=b'["who?","she"]',
        capture_output=True,
        check=True,
    ).stdout.split()[-1]
    assert salted_hash(SALT, ["who?", "she"]) == expected.decode()
    assert salted_hash(SALT, ["who?", "he"]) != expected.decode()
    assert salted_hash("11" * 32, ["who?", "she"]) != expected.decode()


def test_state_of_the_entries(ledger):
    history = ledger.history()
    assert list(history.requested) == ["a", "b"]
    assert [pending.id for pending in history.pending] == ["b"]
    assert list(history.applied) == ["a"]
    assert [entry.index for entry in history.entries] == [0, 1, 2, 3]


def test_each_line_has_the_hash_of_the_line_before(ledger):
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [line["content"]["previous"] for line in lines] == ["0" * 64, *(line["hash"] for line in lines[:-1])]
    assert all(line["hash"] == content_hash(line["content"]) for line in lines)


@pytest.mark.slow
def test_every_changed_and_every_missing_byte_is_found(ledger):
    """The message names the line of the byte; a missing line break is found in the line that it ended."""
    content = ledger.path.read_bytes()
    for position in range(len(content)):
        number = content.count(b"\n", 0, position) + 1
        # Every byte is changed, every fifth is removed or doubled, too.
        others = (b"", content[position : position + 1] * 2) if position % 5 == 0 else ()
        for replacement in (bytes([content[position] ^ 1]), *others):
            ledger.path.write_bytes(content[:position] + replacement + content[position + 1 :])
            with pytest.raises(DataError, match=r"ledger.jsonl, line \d+ ") as caught:
                ledger.history()
            named = int(str(caught.value).split(", line ")[1].split()[0])
            # A doubled line break is an empty line of its own.
            assert named in {number, number + 1} if content[position : position + 1] == b"\n" else named == number


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: [lines[0], *lines[2:]], "line 2 does not follow the line before"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "line 2 does not follow the line before"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "line 3 does not follow the line before"),
        (lambda lines: lines[1:], "line 1 does not follow the line before"),
        (lambda lines: [*lines[:3], lines[3][:40]], "line 4 is incomplete"),
        (lambda lines: [lines[0], b"", *lines[1:]], "line 2 is not an entry"),
        (lambda lines: [lines[0], b"\xff\xfe", *lines[1:]], "line 2 is not an entry"),
        (lambda lines: [], "line 1 is incomplete"),
    ],
    ids=["removed", "swapped", "repeated", "no opening", "torn", "blank", "not text", "empty"],
)
def test_lines_that_were_moved_or_torn(ledger, change, problem):
    lines = ledger.path.read_bytes().splitlines()
    torn = problem == "line 4 is incomplete"
    changed = change(lines)
    ledger.path.write_bytes(b"\n".join(changed) + (b"" if torn or not changed else b"\n"))
    with pytest.raises(DataError, match=problem):
        ledger.history()
    with pytest.raises(DataError, match=problem), ledger.writing():
        pass


def test_an_entry_of_another_version_is_not_misread(ledger):
    lines = ledger.path.read_bytes().splitlines()
    content = {**json.loads(lines[0])["content"], "schema_version": 1}
    first = canonical_json({"content": content, "hash": content_hash(content)}).encode()
    ledger.path.write_bytes(b"\n".join([first, *lines[1:]]) + b"\n")
    with pytest.raises(DataError, match="line 1 has record format 1, and this version of expunge reads"):
        ledger.history()


def test_no_ledger(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=r"has no ledger\.jsonl"):
            Ledger(folder).history()
        with pytest.raises(DataError, match=r"has no ledger\.jsonl"), Ledger(folder).writing():
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_of_the_ledger_cannot_be_changed(ledger):
    history = ledger.history()
    assert ledger.recipe(history).name == "quickstart"
    path = ledger.folder / "recipe.yaml"
    path.write_text(path.read_text().replace("npo", "simnpo"))
    with pytest.raises(DataError, match=r"recipe.yaml is not the recipe that the ledger was opened with"):
        ledger.recipe(history)


def test_a_run_outside_the_ledger_is_refused(ledger):
    applied = Applied(id="a", run="../elsewhere", model_files={}, code="")
    with pytest.raises(DataError, match="leads out of"):
        ledger.checkpoint(applied)


def test_many_processes_write_one_after_another(ledger):
    """Four processes append ten entries each: all 40 are there, in one chain."""
    code = (
        "import sys; from expunge.commands.requests.ledger import Ledger\n"
        "from expunge.records.requests import Requested\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for number in range(10):\n"
        "    with ledger.writing() as history:\n"
        "        ledger.append(history, Requested(id=f'{sys.argv[2]}-{number}', received='', by='rows', rows=[]))\n"
    )
    words = [sys.executable, "-c", code, str(ledger.folder)]
    processes = [subprocess.Popen([*words, str(writer)]) for writer in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    names = set(ledger.history().requested)
    assert names == {"a", "b", *(f"{writer}-{number}" for writer in range(4) for number in range(10))}
    assert sorted(path.name for path in Path(ledger.folder).iterdir()) == ["ledger.jsonl", "recipe.yaml", "write.lock"]
