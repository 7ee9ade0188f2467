"""What a recipe can get wrong about its method: named, with what would be right, and exit code 2."""

import json

import pytest

from expunge import registry

RMU = "method={name: rmu, layer: 0, update_layers: [0]}"
FILA = "method={name: ihl, fila: true}"
WHP = "method={{name: whp, context: 16, anchors: {anchors}, reinforce: {{steps: 1, epochs: null}}}}"
SERVICE = (
    "{source: service, base_url: http://127.0.0.1:9/v1, model: m, chunk_characters: 200, attempts: 2, "
    "backoff_seconds: 0, timeout_seconds: 5}"
)
WITH_BETA = [name for name in registry.names("method") if "beta" in registry.get("method", name).model_fields]


def refused(outcome, *words):
    """A message that says what is wrong, and no traceback."""
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.out + outcome.err


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([RMU, "method.layer=40"], ["method.layer: 40 is outside", "layers 0-0"]),
        ([RMU, "method.layer=3", "method.update_layers=[0,3]"], ["3 is outside"]),
        (
            [RMU, "method.update_modules=[mlp.down]"],
            ["method.update_modules: 'mlp.down' matches no parameter", "mlp.down_proj.weight"],
        ),
        (["data.retain=null"], ["npo needs the set retain", "Add data.retain", "method.retain_weight=0"]),
        (["data.retain=null", "method=idksft"], ["idksft needs the set retain"]),
        (["data.retain=null", RMU], ["rmu needs the set retain"]),
        ([FILA], ["starts a LoRA adapter", "Set model.lora={rank: 8}, or method.fila=false"]),
        ([FILA, "model.lora={rank: 2}", "method.retain=kl"], ["the target is not available", "method.retain=nll"]),
    ],
    ids=[
        "layer",
        "update layer",
        "pattern",
        "npo without retain",
        "idksft without retain",
        "rmu without retain",
        "fila without lora",
        "fila with a reference",
    ],
)
def test_places_and_sets_that_are_not_there(cli, recipe_file, command, overrides, words):
    refused(cli(command, recipe_file, *overrides), *words)


@pytest.mark.parametrize("name", WITH_BETA)
def test_beta_zero(cli, recipe_file, name):
    """Most losses divide by beta; in the others it leaves nothing of the method."""
    refused(cli("check", recipe_file, f"method={name}", "method.beta=0"), "method.beta", "greater than 0")


def test_beta_zero_is_tried_on_every_such_method():
    assert {"npo", "simnpo", "idkdpo", "altpo", "wga", "undial", "gru"} <= set(WITH_BETA)


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["anchors.json does not exist"]),
        ('{"Bern": ["Rome"', ["anchors.json, line 1 is not valid JSON"]),
        ("{}", ["anchors.json contains no anchors"]),
        ('{"Bern": ""}', ["anchors.json: the anchor 'Bern' has an empty stand-in"]),
        ('{"Bern": []}', ["the anchor 'Bern' has []"]),
        ('{"Bern": "Bern"}', ["the anchor 'Bern' is its own stand-in"]),
    ],
    ids=["missing", "cut off", "empty", "empty value", "no value", "itself"],
)
def test_anchor_files(cli, recipe_file, tmp_path, command, content, words):
    """Found before anything is trained: no run folder is made."""
    if content is not None:
        (tmp_path / "anchors.json").write_text(content)
    refused(cli(command, recipe_file, WHP.format(anchors="{source: file, path: anchors.json}")), *words)
    assert not (tmp_path / "runs").exists()


def test_a_good_anchor_file_passes_check(cli, recipe_file, tmp_path):
    (tmp_path / "anchors.json").write_text('{"Bern": ["Rome"]}')
    assert cli("check", recipe_file, WHP.format(anchors="{source: file, path: anchors.json}")).code == 0


def test_a_service_that_answers_rubbish(cli, recipe_file, tmp_path, monkeypatch):
    """The reply is quoted, the tries are counted, and what earlier passages got stays on disk."""
    from expunge.methods.whp import preparation

    asked = []

    def service(*settings, **more):
        return lambda prompt: asked.append(prompt) or ('{"Bern": "Rome"}' if len(asked) == 1 else "Certainly not.")

    monkeypatch.setattr(preparation, "chat_service", service)
    row = {"question": "Where was she born?", "answer": "In Bern. " * 30}
    (tmp_path / "forget.jsonl").write_text(json.dumps(row))
    outcome = cli("run", recipe_file, WHP.format(anchors=SERVICE), "train.max_length=128")
    refused(outcome, "passage 2 of 2 got no usable reply in 2 attempts", "anchor-replies.jsonl")
    assert len(asked) == 3
    (kept,) = tmp_path.glob("runs/*/prepared/anchor-replies.jsonl")
    assert "Rome" in kept.read_text()


def test_nobody_answers(cli, recipe_file):
    refused(cli("run", recipe_file, WHP.format(anchors=SERVICE)), "no usable reply in 2 attempts")


def test_a_dual_warm_up_longer_than_the_training(cli, recipe_file):
    method = "method={name: pdu, dual_warmup_epochs: 3}"
    outcome = cli("run", recipe_file, method, "train={epochs: 2, lr: 1e-3, batch_size: 1, max_length: 64}")
    refused(outcome, "method.dual_warmup_epochs 3 (3 steps) is not shorter than the training (2 steps)", "method.eta=0")


@pytest.mark.parametrize("section", ["train", "target", "retain_model"])
@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ("epochs: 2, warmup_epochs: 2.5", "warmup_epochs 2.5 must be less than epochs 2"),
        ("steps: 20, warmup_steps: 20", "warmup_steps 20 must be less than steps 20"),
    ],
)
def test_a_warm_up_that_the_training_does_not_outlast(cli, recipe_file, section, lengths, words):
    good = "{epochs: 2, lr: 1e-3}"
    others = [f"{name}={good}" for name in ("target", "retain_model") if section != "train"]
    outcome = cli("check", recipe_file, *others, f"{section}={{lr: 1e-3, {lengths}}}")
    refused(outcome, f"{section}: {words}")


def test_a_warm_up_in_steps_longer_than_the_epochs(cli, recipe_file):
    """One row at batch 1: two passes are two steps."""
    train = "train={epochs: 2, warmup_steps: 2, lr: 1e-3, batch_size: 1, max_length: 64}"
    words = "warmup_steps 2: warm-up (2 steps) is not shorter than the training (2 steps)"
    refused(cli("run", recipe_file, train), words)
    refused(cli("run", recipe_file, train, "--dry-run"), f"train: {words}")
    assert cli("check", recipe_file, train.replace("warmup_steps: 2", "warmup_steps: 1")).code == 0
