"""Every mistake of a user ends in a message that names it and what to do, and in exit code 2."""

import shutil
from pathlib import Path

import pytest

SETTINGS = [
    (["quickstart", "method.betta=1"], ["method.betta", "Did you mean 'beta'?"]),
    (["quickstart", "train.lr=fast"], ["train.lr", "'fast'"]),
    (["quickstart", "trian.lr=1", "seed=no"], ["2 problems", "trian", "Did you mean 'train'?", "seed"]),
    (["quickstrat"], ["quickstrat", "Did you mean 'quickstart'?"]),
    (["quickstart", "method=npoo"], ["npoo", "Did you mean 'npo'?"]),
    (["missing.yaml"], ["missing.yaml", "does not exist"]),
    (["quickstart", "seed"], ["'seed' is not an override", "key.path=value"]),
    (["quickstart", "seed.x=1"], ["seed.x", "single value"]),
    (["quickstart", "data.name=tufo"], ["data.name", "tufo", "tofu"]),
    (["quickstart", "model.lora.targets=5"], ["model.lora.targets: "]),
]


@pytest.mark.parametrize(("words", "expected"), SETTINGS)
@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_settings_are_named(cli, command, words, expected):
    outcome = cli(command, *words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("Error: ")
    assert "Traceback" not in outcome.err
    for part in expected:
        assert part in outcome.err


def test_malformed_yaml_is_located(cli, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\nmodel: {name: [}\n")
    outcome = cli("check", "bad.yaml")
    assert outcome.code == 2
    assert "bad.yaml" in outcome.err
    assert "line 2, column" in outcome.err


def test_a_key_given_twice_is_refused(cli, tmp_path):
    (tmp_path / "twice.yaml").write_text("name: x\nname: y\n")
    outcome = cli("check", "twice.yaml")
    assert outcome.code == 2
    assert "duplicate key 'name'" in outcome.err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.trainer_extra.learnin_rate=1", ["train.trainer_extra.learnin_rate", "learning_rate"]),
        ("train.trainer_extra.learning_rate=1", ["already set by the recipe"]),
        ("train.optimizer=adamm", ["train.optimizer", "adamm"]),
        ("train.report_to=[wandbb]", ["train.report_to", "Did you mean 'wandb'?"]),
        ("model.frozen_dtype=bfloat16", ["model.frozen_dtype has no effect", "keeps no copy of the start model"]),
    ],
)
def test_training_arguments_are_refused_before_anything_is_trained(cli, recipe_file, override, expected):
    """`run` itself refuses them: the recipe's folder of runs is never made."""
    outcome = cli("run", recipe_file, override)
    assert outcome.code == 2
    for part in expected:
        assert part in outcome.err
    assert not Path("runs").exists()


def test_missing_model_folder(cli, recipe_file):
    outcome = cli("run", recipe_file, "model.name=./nowhere")
    assert outcome.code == 2
    assert "./nowhere does not exist" in outcome.err


def test_pickled_weights_are_refused(cli, recipe_file, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for command in ("check", "run"):
        outcome = cli(command, recipe_file, f"model.name={folder}")
        assert outcome.code == 2, command
        assert "pickle" in outcome.out + outcome.err, command


def test_truncated_weights_are_refused(cli, recipe_file, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in ("check", "run"):
        outcome = cli(command, recipe_file, f"model.name={folder}")
        assert outcome.code == 2, command
        assert "damaged or not safetensors" in outcome.out + outcome.err, command


def test_a_file_in_the_place_of_the_runs_folder(cli, recipe_file, tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    outcome = cli("run", recipe_file, "--runs", "runs/deep")
    assert outcome.code == 2
    assert "cannot write" in outcome.err
    assert "--runs" in outcome.err


def test_missing_data_path(cli, recipe_file):
    outcome = cli("run", recipe_file, "data.forget.path=gone.jsonl")
    assert outcome.code == 2
    assert "gone.jsonl does not exist" in outcome.err


def test_unknown_command_and_option(cli):
    outcome = cli("chek", "quickstart")
    assert outcome.code == 2
    assert "Did you mean 'check'" in outcome.err
    assert cli("ls", "--nope").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["show", "simmnpo"], "Did you mean 'simnpo'?"),
        (["ls", "method5"], "Did you mean 'methods'?"),
        (["report", "nowhere"], "nowhere does not exist"),
        (["score-log", "nowhere.json"], "nowhere.json does not exist"),
        (["evaluate", "./nowhere", "--data", "synthetic"], "./nowhere does not exist"),
        (["evaluate", "./x", "--set", "bla=1", "--data", "synthetic"], "there is no setting 'bla'"),
        (["evaluate", "./x", "--data", "synthetic", "--split", "forget10"], "split has no effect"),
        (["init", "."], "is a folder"),
    ],
)
def test_other_commands_say_what_is_wrong(cli, words, expected):
    outcome = cli(*words)
    assert outcome.code == 2
    assert expected in outcome.err


def test_text_of_users_is_not_markup(cli):
    outcome = cli("show", "[red]x[/red]")
    assert "'[red]x[/red]'" in outcome.err
