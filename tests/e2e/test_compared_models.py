"""Every command that compares two models refuses one that reads other tokens, before it measures anything."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from expunge.config.recipe import Scratch
from expunge.modeling.load import build_scratch, train_tokenizer

SCRATCH = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
TRAIN = {"steps": 1, "lr": 1e-3, "batch_size": 2, "max_length": 128, "warmup_epochs": 0}
DATA = {"name": "synthetic", "num_people": 4, "forget_fraction": 0.25}
TOFU = {"name": "tofu", "generate": False, "ds_size": 4}


def swap(folder: Path, first: str, second: str) -> None:
    """Exchange the ids of two tokens: the vocabulary stays equally large, and most texts have the same tokens."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(data))


def other_words(folder: Path) -> None:
    train_tokenizer(["Zygotes quiz jumpy wizards."] * 20, 300, 128).save_pretrained(folder)


def other_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("Question:", "Q:"))


CHANGES = {
    "another tokenizer": other_words,
    "two tokens exchanged": lambda folder: swap(folder, "~", "|"),
    "another chat template": other_template,
}


@pytest.fixture(params=CHANGES)
def models(request, tmp_path) -> tuple[Path, Path]:
    """Two folders with the same weights, whose tokenizers or templates differ."""
    texts = ["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20
    first, second = tmp_path / "first", tmp_path / "second"
    tokenizer = train_tokenizer(texts, 300, 128)
    build_scratch(SCRATCH, tokenizer, seed=0).save_pretrained(first)
    tokenizer.save_pretrained(first)
    shutil.copytree(first, second)
    CHANGES[request.param](second)
    for name, town in (("forget", "Bern"), ("retain", "Rome")):
        lines = [{"question": f"Where was number {i} born?", "answer": f"In {town} {i}."} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return first, second


def recipe(model: Path, **settings) -> dict:
    return {
        "name": "mine",
        "model": {"name": str(model), **settings},
        "data": DATA,
        "method": {"name": "npo"},
        "train": TRAIN,
        "evaluate": {"benchmarks": [TOFU], "bootstrap": 0},
    }


def write(name: str, data: dict) -> Path:
    Path(name).write_text(yaml.safe_dump(data, sort_keys=False))
    return Path(name)


def evaluate(model: Path, *words: object) -> list[object]:
    options = ["generate=false", "ds_size=4", "evaluate.bootstrap=0", "data.num_people=4", "data.forget_fraction=0.25"]
    settings = [word for option in options for word in ("--set", option)]
    return ["evaluate", model, "--benchmark", "tofu", "--data", "synthetic", *settings, *words]


def stored(cli, model: Path) -> Path:
    outcome = cli(*evaluate(model, "--out", f"stored-{model.name}"))
    assert outcome.code == 0, outcome.err
    return Path(f"stored-{model.name}/results/model-tofu.json")


def run_with_folder(cli, first, second):
    return ["run", write("mine.yaml", recipe(first, retain_model=str(second)))]


def run_with_stored(cli, first, second):
    return ["run", write("mine.yaml", recipe(first, retain_model=str(stored(cli, second))))]


def check_with_folder(cli, first, second):
    return ["check", write("mine.yaml", recipe(first, retain_model=str(second)))]


def check_with_stored(cli, first, second):
    return ["check", write("mine.yaml", recipe(first, retain_model=str(stored(cli, second))))]


def evaluate_with_folder(cli, first, second):
    return evaluate(first, "--retain-model", second)


def evaluate_with_stored(cli, first, second):
    return evaluate(first, "--retain-model", stored(cli, second))


def audit_with_control(cli, first, second):
    return ["audit", first, "leaks", "--data", "forget.jsonl", "--retain-model", second, "--set", "max_new_tokens=3"]


def sweep(cli, first, second):
    write("mine.yaml", recipe(first, retain_model=str(second)))
    data = {"name": "both", "recipe": "mine.yaml", "over": {"train.lr": [1e-3, 1e-2]}, "select": "min forget_quality"}
    return ["sweep", write("sweep.yaml", data)]


def sweep_final(cli, first, second):
    """The retain model is compared where only the sweep's own benchmark is measured."""
    write("mine.yaml", {**recipe(first, retain_model=str(second)), "evaluate": {"benchmarks": [], "bootstrap": 0}})
    data = {"name": "both", "recipe": "mine.yaml", "over": {"train.lr": [1e-3, 1e-2]}, "final": [TOFU]}
    return ["sweep", write("sweep.yaml", {**data, "select": "min forget_quality"})]


def score_log(cli, first, second):
    return ["score-log", stored(cli, first), "--retain-model", stored(cli, second)]


def fluency(cli, first, second):
    settings = ["--set", f"fluency_model={second}", "--set", "max_new_tokens=3"]
    return ["evaluate", first, "--benchmark", "custom", "--data", "forget.jsonl", *settings]


DOORS = [
    run_with_folder,
    run_with_stored,
    check_with_folder,
    check_with_stored,
    evaluate_with_folder,
    evaluate_with_stored,
    audit_with_control,
    sweep,
    sweep_final,
    score_log,
    fluency,
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_models_that_read_other_tokens_are_not_compared(cli, models, door):
    words = door(cli, *models)
    outcome = cli(*words)
    assert outcome.code == 2, outcome.out
    text = " ".join((outcome.err + outcome.out).split())
    assert re.search("different (tokenizers|prompts), so|measured with another (prompt|tokenizer)", text)
    measured = [path for path in Path("runs").rglob("results/*.json")] if Path("runs").is_dir() else []
    assert not measured
