"""Fixtures of the command-line tests: a tiny model folder, and the command in this process."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Run one command in this process, in an empty folder; the hub is out of reach."""
    from expunge.cli import main as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The library reads the variable once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(module, "quiet", lambda: None)  # it would change the other tests' loggers and warnings

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = module.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a one-layer model of random weights and its tokenizer."""
    from expunge.config.recipe import Scratch
    from expunge.modeling.load import build_scratch, train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 128)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
    build_scratch(scratch, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    """A recipe on the tiny model and two local files of rows."""
    rows = '{"question": "Where was she born?", "answer": "In Bern."}\n'
    (tmp_path / "forget.jsonl").write_text(rows)
    (tmp_path / "retain.jsonl").write_text(rows.replace("she", "he").replace("Bern", "Rome"))
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""\
name: mine
model: {{name: {tiny_model}}}
data:
  name: files
  forget: {{path: {tmp_path / "forget.jsonl"}}}
  retain: {{path: {tmp_path / "retain.jsonl"}}}
method: npo
train: {{steps: 1, lr: 1e-3, max_length: 64}}
"""
    )
    return path
