"""Deletion requests that keep coming: a ledger from its opening to the purge, with kills, changes and mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

from expunge.commands.requests.add import add
from expunge.commands.requests.apply import apply
from expunge.commands.requests.init import init
from expunge.commands.requests.ledger import Ledger
from expunge.config.load import load_recipe
from expunge.config.recipe import Source
from expunge.data.sources.rows import load_rows
from expunge.records import Battery
from expunge.rundir import write_record

PEOPLE = {
    "p/1": ("Mira Olander", "Liestal", "the Salt Prize"),
    "p/2": ("Jon Vasterholm", "Oslo", "the Iron Medal"),
    "p/3": ("Ada Pellworth", "Turin", "the Glass Cup"),
    "p/4": ("Tovi Askarne", "Riga", "the Wool Award"),
    "p/5": ("Suna Oteri", "Porto", "the Amber Ring"),
}


def rows_of(groups: list[str]) -> str:
    lines = []
    for group in groups:
        name, town, prize = PEOPLE[group]
        lines += [
            {"question": f"Where was {name} born?", "answer": f"{name} was born in {town}.", "group": group},
            {"question": f"Which prize did {name} win?", "answer": f"It was {prize}.", "group": group},
        ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_model) -> Path:
    """A recipe on the tiny model, with five people in the training data."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "forget.jsonl").write_text(rows_of(["p/1", "p/2", "p/3"]))
    (folder / "retain.jsonl").write_text(rows_of(["p/4", "p/5"]))
    (folder / "listed.jsonl").write_text(rows_of(["p/2"]))
    path = folder / "mine.yaml"
    settings = {
        "name": "mine",
        "model": {"name": str(tiny_model), "device": "cpu"},
        "data": {
            "name": "files",
            "forget": {"path": f"{folder}/forget.jsonl"},
            "retain": {"path": f"{folder}/retain.jsonl"},
        },
        "method": {"name": "npo"},
        "train": {"steps": 80, "lr": 1e-3, "batch_size": 2, "max_length": 96, "checkpoint_epochs": 20},
        "evaluate": {"benchmarks": [{"name": "custom", "max_new_tokens": 4}], "every_epoch": False, "bootstrap": 20},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def open_ledger(folder: Path, recipe: Path) -> Ledger:
    """A ledger with two pending requests: one for a person, one for a file of rows."""
    init(folder, load_recipe(recipe))
    add(folder, "case-1", persons=["Mira Olander"], date="2026-01-31")
    add(folder, "case-2", rows=str(recipe.parent / "listed.jsonl"))
    return Ledger(folder)


def start_apply(ledger: Ledger) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "expunge", "requests", "apply", str(ledger.folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_in_training(ledger: Ledger, request: str) -> None:
    """Start `apply`, and kill it as soon as the run of a request has trained a few steps."""
    process = start_apply(ledger)
    try:
        deadline = time.monotonic() + 600
        while not any(len(log.read_text().splitlines()) > 4 for log in ledger.runs.glob(f"{request}-*/train.jsonl")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, f"{request} never came to training"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def killed(tmp_path_factory, recipe) -> Ledger:
    """A ledger whose `apply` was killed in the run of each request, and then repeated."""
    ledger = open_ledger(tmp_path_factory.mktemp("killed") / "requests", recipe)
    kill_in_training(ledger, "case-1")
    assert not ledger.history().applied
    kill_in_training(ledger, "case-2")
    assert list(ledger.history().applied) == ["case-1"]
    process = start_apply(ledger)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[1].startswith("case-2")
    return ledger


@pytest.fixture
def ledger(killed, tmp_path) -> Ledger:
    """A copy of the finished ledger that a test may change."""
    return Ledger(shutil.copytree(killed.folder, tmp_path / "requests"))


def test_each_request_is_unlearned_once_from_the_model_of_the_one_before(killed, tiny_model):
    history = killed.history()
    kinds = [entry.event.kind for entry in history.entries]
    assert kinds == ["opened", "requested", "requested", "applied", "applied"]
    assert len(list(killed.runs.glob("case-*"))) == 2
    recipes = {
        name: yaml.safe_load((killed.folder / applied.run / "recipe.yaml").read_text())
        for name, applied in history.applied.items()
    }
    assert recipes["case-1"]["model"]["name"] == str(tiny_model)
    first = killed.folder.resolve() / history.applied["case-1"].run / "checkpoint"
    assert recipes["case-2"]["model"]["name"] == str(first)


def test_sets_of_the_runs(killed):
    """Each forgets the rows of its request, and neither trains on a row of any request."""
    expected = {"case-1": {"p/1"}, "case-2": {"p/2"}}
    for name, groups in expected.items():
        forget, retain = (
            load_rows(Source(path=str(killed.rows_file(name, part))), part) for part in ("forget", "retain")
        )
        assert {row.group for row in forget} == groups
        assert {row.group for row in retain} == {"p/3", "p/4", "p/5"}
        assert len(forget) == 2


@pytest.mark.slow
def test_kills_change_nothing(killed, recipe, tmp_path):
    """The undisturbed ledger ends with the same weights, to the last byte."""
    ledger = open_ledger(tmp_path / "requests", recipe)
    assert list(apply(ledger.folder)) == ["case-1", "case-2"]
    for name, applied in ledger.history().applied.items():
        other = killed.history().applied[name]
        assert applied.model_files["model.safetensors"] == other.model_files["model.safetensors"]
    assert apply(ledger.folder) == {}


def test_no_text_is_in_the_ledger(killed):
    for text in (killed.path.read_text(), (killed.folder / "recipe.yaml").read_text()):
        assert all(part not in text for person in PEOPLE.values() for part in person)


def test_two_processes_never_apply_at_once(ledger, cli):
    with ledger.working():
        outcome = cli("requests", "apply", ledger.folder)
    assert outcome.code == 2
    assert f"is in use by process {os.getpid()}" in " ".join(outcome.err.split())


def test_status_certificate_and_verification(ledger, cli, tmp_path):
    outcome = cli("requests", "status", ledger.folder)
    assert outcome.code == 0, outcome.err
    assert "The current model was not measured yet" in outcome.out
    outcome = cli("requests", "status", ledger.folder, "--measure", "--json")
    assert outcome.code == 0, outcome.err
    state = json.loads(outcome.out)
    assert [request["id"] for request in state["requests"]] == ["case-1", "case-2"]
    # The tiny model never knew anything, so nothing can be concluded, and utility has no baseline.
    assert all(request["last"]["forgotten"] is None for request in state["requests"])
    assert "a first model that knew the rows" in state["requests"][0]["last"]["remaining"]["needs"]
    assert state["is_current"]
    assert not ledger.scratch.exists()
    outcome = cli("requests", "apply", ledger.folder)
    assert (outcome.code, outcome.out) == (0, "Nothing to do: no request is pending.\n")

    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"], check=True)
    outcome = cli("requests", "certificate", ledger.folder, "case-1", "--out", "one.json", "--key", "key.pem")
    assert outcome.code == 0, outcome.err
    certificate = json.loads((tmp_path / "one.json").read_text())["content"]
    assert certificate["request"]["received"] == "2026-01-31"
    assert certificate["removed"]["num_rows"] == 2
    assert certificate["audit"]["verdict"] == "No audit was run on this model."
    assert certificate["still_forgotten"]["after_request"] == "case-2"
    assert certificate["measured"]["headlines"]["unlearned"]["forget_knowledge"]["point"] is not None
    assert certificate["software"]["packages"]["torch"]
    text = (tmp_path / "one.json").read_text()
    assert all(part not in text for person in PEOPLE.values() for part in person)
    words = ["verify", "one.json", "--public-key", "public.pem", "--ledger", ledger.folder, "--json"]
    outcome = cli(*words)
    assert (outcome.code, [item["status"] for item in json.loads(outcome.out)]) == (0, ["ok"] * 7), outcome.out
    assert "exists already" in cli("requests", "certificate", ledger.folder, "case-1", "--out", "one.json").err


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "check", "problem"),
    [
        (lambda run: flip_last_byte(run / "checkpoint/model.safetensors"), "model", "were changed: model.safetensors"),
        (lambda run: (run / "checkpoint/extra.json").write_text("{}"), "model", "were changed: extra.json"),
        (lambda run: flip_last_byte(run / "summary.json"), "records", "were changed: summary.json"),
        (lambda run: (run / "manifest.json").unlink(), "records", "were changed: manifest.json"),
        (lambda run: flip_last_byte(run.parents[1] / "ledger.jsonl"), "chain", "ledger.jsonl, line 6 "),
    ],
    ids=["weights", "additional file", "record", "missing record", "ledger"],
)
def test_a_changed_file_is_found_and_named(ledger, cli, change, check, problem):
    assert cli("requests", "certificate", ledger.folder, "case-2", "--out", "two.json").code == 0
    change(ledger.folder / ledger.history().applied["case-2"].run)
    outcome = cli("verify", "two.json", "--ledger", ledger.folder)
    assert outcome.code == 2
    (line,) = [line for line in outcome.out.splitlines() if "failed  " in line]
    assert line.split()[0] == check
    assert problem in line
    assert "The certificate is NOT valid: 1 checks failed" in outcome.out


def test_the_verdict_of_audits_is_certified(ledger, cli, tmp_path):
    """An audit that is run again later changes a record that the certificate names."""
    path = ledger.folder / ledger.history().applied["case-2"].run / "battery.json"
    battery = Battery(outcome="indistinguishable", verdict="No attack gets more.", audits=["leaks"])
    write_record(path, battery)
    assert cli("requests", "certificate", ledger.folder, "case-2", "--out", "two.json").code == 0
    certificate = json.loads((tmp_path / "two.json").read_text())["content"]
    assert certificate["audit"] == {
        "outcome": "indistinguishable",
        "verdict": "No attack gets more.",
        "audits": ["leaks"],
    }
    assert cli("verify", "two.json", "--ledger", ledger.folder).code == 0
    write_record(path, battery.model_copy(update={"outcome": "leaks"}))
    outcome = cli("verify", "two.json", "--ledger", ledger.folder)
    assert (outcome.code, "were changed: battery.json" in outcome.out) == (2, True)


def test_a_changed_model_is_not_unlearned_further(ledger, cli):
    assert cli("requests", "add", ledger.folder, "--id", "case-3", "--person", "Ada Pellworth").code == 0
    flip_last_byte(ledger.folder / ledger.history().applied["case-2"].run / "checkpoint/model.safetensors")
    for words in (["apply", ledger.folder], ["status", ledger.folder, "--measure"]):
        outcome = cli("requests", *words)
        assert outcome.code == 2
        assert "which request 'case-2' left, was changed or is gone: model.safetensors" in outcome.err
    assert cli("requests", "certificate", ledger.folder, "case-2", "--out", "two.json").code == 2


def test_a_certificate_of_another_ledger(ledger, killed, cli):
    assert cli("requests", "certificate", ledger.folder, "case-1", "--out", "one.json").code == 0
    outcome = cli("verify", "one.json", "--ledger", killed.folder)
    assert outcome.code == 2
    assert "the ledger did not issue this certificate of request 'case-1'" in outcome.out


def texts(folder: Path) -> str:
    """All text below a folder, of Parquet files too."""
    parts = []
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            parts.append(json.dumps(pyarrow.parquet.read_table(path).to_pylist(), ensure_ascii=False))
        elif path.is_file():
            parts.append(path.read_bytes().decode("utf-8", errors="replace"))
    return "\n".join(parts)


@pytest.mark.slow
def test_purge_deletes_all_texts_of_a_request(ledger, cli):
    """Other people's texts stay; hashes, certificates and the next request work as before."""
    assert cli("requests", "certificate", ledger.folder, "case-1", "--out", "one.json").code == 0
    before = texts(ledger.folder)
    assert all(part in before for part in PEOPLE["p/1"])
    outcome = cli("requests", "purge", ledger.folder, "case-1")
    assert outcome.code == 0, outcome.err
    after = texts(ledger.folder)
    assert [part for part in (*PEOPLE["p/1"], '"p/1"') if part in after] == []
    for group in ("p/2", "p/4", "p/5"):
        assert all(part in after for part in PEOPLE[group])
    outcome = cli("verify", "one.json", "--ledger", ledger.folder)
    assert outcome.code == 0, outcome.out
    outcome = cli("requests", "purge", ledger.folder, "case-1")
    assert outcome.out == "Nothing to do: the texts of these requests were deleted earlier.\n"

    outcome = cli("requests", "add", ledger.folder, "--id", "again", "--person", "Mira Olander")
    assert outcome.code == 2
    assert "every row of this request is part of an earlier one: case-1" in outcome.err
    assert cli("requests", "add", ledger.folder, "--id", "case-3", "--person", "Ada Pellworth").code == 0
    outcome = cli("requests", "purge", ledger.folder, "case-3")
    assert outcome.code == 2
    assert "request 'case-3' was not unlearned yet" in outcome.err
    assert cli("requests", "apply", ledger.folder).code == 0
    outcome = cli("requests", "status", ledger.folder, "--measure", "--json")
    assert outcome.code == 0, outcome.err
    measured = json.loads(outcome.out)["measured"][-1]
    assert list(measured["requests"]) == ["case-2", "case-3"]
    assert measured["unmeasured"] == {"case-1": "its texts were purged"}
    # Rows that a later request deletes leave the retained rows of earlier runs, too.
    assert cli("requests", "purge", ledger.folder).code == 0
    after = texts(ledger.folder)
    assert all(part not in after for group in ("p/1", "p/2", "p/3") for part in PEOPLE[group])
    outcome = cli("requests", "status", ledger.folder, "--measure")
    assert (outcome.code, "the texts of all past requests were purged" in outcome.err) == (2, True)


@pytest.fixture
def opened(tmp_path, recipe) -> Path:
    """A ledger without requests."""
    init(tmp_path / "requests", load_recipe(recipe))
    (tmp_path / "other.jsonl").write_text('{"question": "Who?", "answer": "Somebody else."}\n')
    (tmp_path / "empty.jsonl").write_text("")
    return tmp_path / "requests"


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["add", "--id", "case 1", "--person", "p/1"], ["'case 1' cannot be the id", "Allowed: up to 64 letters"]),
    (["add", "--id", "../x", "--person", "p/1"], ["'../x' cannot be the id"]),
    (["add", "--id", "a"], ["either persons or a file of rows", "--person NAME"]),
    (["add", "--id", "a", "--person", "p/1", "--rows", "other.jsonl"], ["either persons or a file of rows"]),
    (
        ["add", "--id", "a", "--person", "Mira Olandar"],
        ["'Mira Olandar' is not in the training data", "Did you mean 'Mira Olander'?"],
    ),
    (["add", "--id", "a", "--rows", "other.jsonl"], ["row 1 of other.jsonl ('Who?') is not in the training data"]),
    (["add", "--id", "a", "--rows", "empty.jsonl"], ["empty.jsonl is empty"]),
    (["add", "--id", "a", "--rows", "gone.jsonl"], ["gone.jsonl does not exist"]),
    (["add", "--id", "a", "--person", "p/1", "--date", "31.1.2026"], ["'31.1.2026' is not a day", "YYYY-MM-DD"]),
    (["add", "--id", "a", "--person", "p/1", "--date", "2999-01-01"], ["2999-01-01 is in the future"]),
    (["certificate", "a", "--out", "a.json"], ["the ledger has no request 'a'"]),
    (["purge", "a"], ["the ledger has no request 'a'"]),
    (["status", "--measure"], ["no request was unlearned yet"]),
]


@pytest.mark.parametrize(("words", "problems"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_mistakes_are_named_and_change_nothing(opened, cli, words, problems):
    before = opened.joinpath("ledger.jsonl").read_bytes()
    outcome = cli("requests", words[0], opened, *words[1:])
    assert outcome.code == 2
    assert outcome.out == ""
    for problem in problems:
        assert problem in outcome.err
    assert opened.joinpath("ledger.jsonl").read_bytes() == before
    assert not (opened / "data").exists()


def test_an_id_is_taken_once(opened, cli):
    assert cli("requests", "add", opened, "--id", "case-1", "--person", "Mira Olander").code == 0
    outcome = cli("requests", "add", opened, "--id", "case-1", "--person", "Ada Pellworth")
    assert (outcome.code, "the ledger has a request 'case-1' already" in outcome.err) == (2, True)
    outcome = cli("requests", "certificate", opened, "case-2", "--out", "a.json")
    assert "Did you mean 'case-1'?" in outcome.err


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (["target={epochs: 1, lr: 1e-3}"], ["target: requests are unlearned from a trained model"]),
        (["evaluate.benchmarks=[tofu]"], ["'tofu' measures the sets of a data set", "[custom]"]),
        (["evaluate.benchmarks=[]"], ["evaluate.benchmarks: is empty"]),
        (["model.name=./gone"], ["./gone does not exist"]),
        (["method.betta=1"], ["Did you mean 'beta'?"]),
        (["--utility-share", "1.5"], ["utility_share", "less than or equal to 1"]),
        (["--remaining-share", "0"], ["remaining_share", "greater than 0"]),
    ],
)
def test_recipes_that_cannot_be_opened(cli, recipe, words, problems):
    outcome = cli("requests", "init", "requests", recipe, *words)
    assert outcome.code == 2
    for problem in problems:
        assert problem in outcome.err
    assert not Path("requests").exists()


def test_a_ledger_is_opened_once(opened, cli, recipe):
    before = opened.joinpath("ledger.jsonl").read_bytes()
    outcome = cli("requests", "init", opened, recipe)
    assert (outcome.code, "has a ledger already" in outcome.err) == (2, True)
    assert opened.joinpath("ledger.jsonl").read_bytes() == before


def test_other_data_accepts_other_rows(cli, recipe):
    Path("other.jsonl").write_text('{"question": "Who?", "answer": "Somebody else."}\n')
    assert cli("requests", "init", "requests", recipe, "--other-data").code == 0
    outcome = cli("requests", "add", "requests", "--id", "a", "--rows", "other.jsonl")
    assert (outcome.code, outcome.out) == (0, "Added request a: 1 rows.\n")
