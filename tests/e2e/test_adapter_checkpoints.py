"""An adapter checkpoint as the model: every command gives what it gives for the same model with merged weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from expunge.records import BenchmarkResult
from expunge.rundir import read_record
from expunge.runs.results import read_rows

RUN = {
    "data": {"name": "files", "forget": {"path": "forget.jsonl"}, "retain": {"path": "retain.jsonl"}},
    "method": {"name": "graddiff"},
    "train": {"steps": 4, "lr": 1e-2, "batch_size": 2, "max_length": 64, "warmup_epochs": 0},
    "evaluate": {"benchmarks": [{"name": "custom", "generate": False}], "bootstrap": 0},
}
USES = (
    {},
    {"adapter": "merged"},
    {"adapter": "merged", "lora": {"rank": 2}},
    {"adapter": "stacked", "lora": {"rank": 2}},
)
LORA = USES[2:]


def save_adapter(base: Path, folder: Path, **settings) -> Path:
    """An adapter with random weights and the base model's tokenizer; `folder`-merged is the same model as one."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    adapted.save_pretrained(folder)
    merged = folder.with_name(f"{folder.name}-merged")
    adapted.merge_and_unload().save_pretrained(merged)
    for path in (folder, merged):
        tokenizer.save_pretrained(path)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> Path:
    return save_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "lora")


@pytest.fixture(autouse=True)
def rows(tmp_path):
    for name, town in (("forget", "Bern"), ("retain", "Rome")):
        lines = [{"question": f"Where was number {i} born?", "answer": f"In {town} {i}."} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def recipe(name: str, model: Path, settings: dict, **sections) -> Path:
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump({"name": name, "model": {"name": str(model), **settings}, **RUN, **sections}))
    return path


def run(cli, name: str, model: Path, settings: dict, **sections) -> Path:
    outcome = cli("run", recipe(name, model, settings, **sections))
    assert outcome.code == 0, outcome.err
    (folder,) = Path("runs").glob(f"{name}-*")
    return folder


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{"step": line["step"], **line["terms"]} for line in lines]


def nll(folder: Path, name: str) -> list[float]:
    result = read_record(folder / f"results/{name}.json", BenchmarkResult)
    return [row["nll"] for row in read_rows(folder / result.samples)]


def plain_nll(folder: Path) -> list[float]:
    """Mean loss per token of each answer under a checkpoint as transformers loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    losses = []
    for name in ("forget", "retain"):
        for line in map(json.loads, Path(f"{name}.jsonl").read_text().splitlines()):
            chat = [{"role": "user", "content": line["question"]}, {"role": "assistant", "content": line["answer"]}]
            texts = [tokenizer.apply_chat_template(chat[:num], tokenize=False) for num in (1, 2)]
            prompt, full = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
            with torch.no_grad():
                logp = model(torch.tensor([full])).logits[0, :-1].log_softmax(-1)
            losses.append(-float(logp.gather(-1, torch.tensor(full[1:])[:, None])[len(prompt) - 1 :].mean()))
    return losses


@pytest.mark.parametrize("settings", USES, ids=str)
def test_the_run_starts_from_the_named_model(cli, adapter, settings):
    """Target and first step are those of the merged model; the checkpoint loads by itself, with the measured values."""
    merged = adapter.with_name("lora-merged")
    expected = run(cli, "expected", merged, {key: value for key, value in settings.items() if key == "lora"})
    folder = run(cli, "adapter", adapter, settings)
    assert nll(folder, "target-custom") == pytest.approx(nll(expected, "target-custom"), rel=1e-5)
    assert nll(folder, "target-custom") == pytest.approx(plain_nll(adapter), rel=1e-5)
    assert log(folder)[0] == pytest.approx(log(expected)[0], rel=1e-5)
    unlearned = nll(folder, "unlearned-custom-000004")
    assert unlearned == pytest.approx(nll(expected, "unlearned-custom-000004"), rel=1e-3)
    assert sum(unlearned[:4]) > sum(nll(folder, "target-custom")[:4]) + 0.01
    assert plain_nll(folder / "checkpoint") == pytest.approx(unlearned, rel=1e-5)
    assert (folder / "checkpoint/adapter_config.json").is_file() == ("lora" in settings)


@pytest.mark.parametrize("settings", LORA, ids=str)
def test_the_reference_is_the_named_model(cli, adapter, settings):
    """Before the first step the divergence from the reference is 0, although the base model is far away."""
    for positions in ("all", "labels"):
        method = {"name": "graddiff", "retain": "kl", "kl_positions": positions}
        folder = run(cli, f"kl-{positions}", adapter, settings, method=method)
        assert abs(log(folder)[0]["retain"]) < 1e-9
        assert log(folder)[-1]["retain"] > 1e-4


@pytest.mark.parametrize("settings", LORA, ids=str)
def test_an_interrupted_run_resumes(cli, adapter, settings, monkeypatch):
    whole = run(cli, "whole", adapter, settings)
    from expunge.training import callbacks, trainer

    steps = iter(range(100))
    with monkeypatch.context() as patched:
        for module in (callbacks, trainer):
            patched.setattr(module, "interrupt_requested", lambda: next(steps) > 2)
        assert cli("run", recipe("stopped", adapter, settings)).code == 130
    assert 0 < len(log(next(Path("runs").glob("stopped-*")))) < 4
    folder = run(cli, "stopped", adapter, settings)
    assert log(folder) == log(whole)
    files = [load_file(path / "checkpoint/adapter_model.safetensors") for path in (folder, whole)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[1])


@pytest.mark.parametrize("settings", LORA, ids=str)
def test_a_checkpoint_is_the_target_of_the_next_run(cli, adapter, settings):
    first = run(cli, "first", adapter, settings)
    second = run(cli, "second", first / "checkpoint", settings)
    assert nll(second, "target-custom") == pytest.approx(nll(first, "unlearned-custom-000004"), rel=1e-5)
    assert plain_nll(second / "checkpoint") == pytest.approx(nll(second, "unlearned-custom-000004"), rel=1e-5)


def test_an_adapter_that_cannot_be_joined(cli, tiny_model, tmp_path):
    """With DoRA the checkpoint has the full weights; stacking is refused before anything is measured."""
    dora = save_adapter(tiny_model, tmp_path / "dora", use_dora=True)
    folder = run(cli, "dora", dora, {"lora": {"rank": 2}})
    assert (folder / "checkpoint/model.safetensors").is_file()
    assert nll(folder, "target-custom") == pytest.approx(plain_nll(dora), rel=1e-5)
    assert plain_nll(folder / "checkpoint") == pytest.approx(nll(folder, "unlearned-custom-000004"), rel=1e-5)
    outcome = cli("run", recipe("stacked", dora, {"lora": {"rank": 2}, "adapter": "stacked"}))
    assert outcome.code == 2
    assert "it uses use_dora. Set model.adapter=merged" in " ".join(outcome.err.split())
    assert not list(Path("runs").glob("stacked-*"))


def test_an_adapter_that_starts_from_parts_of_the_weights(cli, adapter):
    method = {"name": "ihl", "fila": True}
    folder = run(cli, "fila", adapter, {"lora": {"rank": 2}}, method=method)
    assert nll(folder, "target-custom") == pytest.approx(plain_nll(adapter), rel=1e-5)
    assert plain_nll(folder / "checkpoint") == pytest.approx(nll(folder, "unlearned-custom-000004"), rel=1e-4)
    outcome = cli("run", recipe("stacked", adapter, {"lora": {"rank": 2}, "adapter": "stacked"}, method=method))
    assert outcome.code == 2
    assert "model.adapter=merged" in outcome.err


TRAIN = {"steps": 2, "lr": 1e-3, "batch_size": 2, "max_length": 64, "warmup_epochs": 0}


@pytest.mark.parametrize(
    ("settings", "sections"),
    [
        ({}, {"target": TRAIN, "retain_model": TRAIN}),
        ({"lora": {"rank": 2}}, {"target": TRAIN, "retain_model": TRAIN}),
        ({}, {"method": {"name": "taskvector", "train": TRAIN}, "train": None}),
        ({}, {"method": {"name": "rmu", "layer": 0, "update_layers": [0], "update_modules": ["mlp.down_proj.weight"]}}),
    ],
    ids=["target and retain model", "the same with lora", "task vector", "chosen matrices"],
)
def test_other_trainings_start_from_it_too(cli, adapter, settings, sections):
    """Fine-tuning of target and retain model, task vectors, and methods that train a few matrices."""
    folders = [
        run(cli, name, model, settings, **sections)
        for name, model in (("expected", adapter.with_name("lora-merged")), ("adapter", adapter))
    ]
    names = sorted(path.stem for path in (folders[0] / "results").glob("*.json"))
    assert names == sorted(path.stem for path in (folders[1] / "results").glob("*.json"))
    for name in names:
        assert nll(folders[1], name) == pytest.approx(nll(folders[0], name), rel=1e-4)


@pytest.mark.parametrize("stem", ["lora", "dora"])
def test_it_can_be_measured_and_attacked(cli, adapter, tiny_model, tmp_path, stem):
    model = adapter if stem == "lora" else save_adapter(tiny_model, tmp_path / stem, use_dora=True)
    options = ["--benchmark", "custom", "--data", "forget.jsonl", "--set", "max_new_tokens=4", "--set"]
    options += ["evaluate.bootstrap=0"]
    results = []
    for path in (model, model.with_name(f"{stem}-merged")):
        outcome = cli("evaluate", path, *options, "--retain-model", tiny_model, "--json")
        assert outcome.code == 0, outcome.err
        results.append(json.loads(outcome.out)["record"])
    for name, metric in results[0]["metrics"].items():
        expected = results[1]["metrics"][name]["point"]
        assert metric["point"] == (None if expected is None else pytest.approx(expected, rel=1e-5)), name
    # As the retain model of itself.
    outcome = cli("evaluate", tiny_model, *options, "--retain-model", model, "--json")
    assert outcome.code == 0, outcome.err
    outcome = cli(
        "audit", model, "leaks", "--data", "forget.jsonl", "--retain-model", model, "--set", "max_new_tokens=4"
    )
    assert outcome.code == 0, outcome.err
    outcome = cli("evaluate", model, *options, "--set", "evaluate.engine=vllm")
    assert outcome.code == 2
    assert "without the adapter" in outcome.err
    for command in (
        ["evaluate", model, *options, "--set"],
        ["audit", model, "leaks", "--data", "forget.jsonl", "--set"],
    ):
        outcome = cli(*command, "model.adapter=merged")
        assert outcome.code == 2
        assert "model.adapter has no effect" in outcome.err


def test_a_run_and_its_checkpoint_have_the_same_values(cli, adapter):
    folder = run(cli, "mine", adapter, LORA[1])
    outcome = cli("evaluate", folder / "checkpoint", "--benchmark", "custom", "--data", "forget.jsonl", "--set",
                  "generate=false", "--out", "again")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert nll(Path("again"), "model-custom") == pytest.approx(nll(folder, "unlearned-custom-000004")[:4], rel=1e-5)
    outcome = cli("audit", folder, "leaks", "--set", "max_new_tokens=4", "--json")
    assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)["arms"]) == {"unlearned", "target"}


def test_it_can_be_the_retain_model_of_a_run(cli, adapter, tiny_model):
    settings = {"retain_model": str(adapter)}
    folder = run(cli, "mine", tiny_model, settings)
    assert nll(folder, "retain-custom") == pytest.approx(plain_nll(adapter), rel=1e-5)
    outcome = cli("check", "mine.yaml", "--json")
    items = {item["name"]: item for item in json.loads(outcome.out)["items"]}
    assert items["retain model"]["status"] == "ok", items


@pytest.mark.parametrize("settings", USES, ids=str)
def test_check_plan_and_dry_run_know_it(cli, adapter, settings):
    path = recipe("mine", adapter, settings)
    outcome = cli("check", path, "--json")
    assert outcome.code == 0, outcome.out
    items = {item["name"]: item for item in json.loads(outcome.out)["items"]}
    assert {item["status"] for item in items.values()} == {"ok"} or items["modules"]["status"] == "not checked"
    assert "LoRA adapter of rank 3 on" in items["model"]["detail"]
    assert settings.get("adapter", "merged") in items["model"]["detail"]
    assert "of the adapter" in items["weights"]["detail"]
    assert cli("plan", path).code == 0
    assert cli("run", path, "--dry-run").code == 0


def test_a_sweep_over_both_uses(cli, adapter):
    recipe("mine", adapter, {"lora": {"rank": 2}})
    sweep = {
        "name": "both",
        "recipe": "mine.yaml",
        "over": {"model.adapter": ["merged", "stacked"]},
        "objectives": {"forget_knowledge": "down"},
        "select": "min forget_knowledge",
        "final": [{"name": "custom", "generate": False, "limit": 3}],
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    outcome = cli("sweep", "sweep.yaml")
    assert outcome.code == 0, outcome.err
    folders = sorted(Path("runs").glob("mine-*"))
    assert len(folders) == 2
    values = [nll(folder, "unlearned-custom-000004") for folder in folders]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    finals = [nll(next(folder.glob("final-*")), "unlearned-custom-000004") for folder in folders]
    assert finals[0] == pytest.approx(values[0][:3] + values[0][4:7], rel=1e-4)


NOTHING = """
from expunge.methods.graddiff import GradDiff

class Nothing(GradDiff):
    '''Selects parameters that do not exist.'''

    def trainable(self, model):
        return ["model.layers.9.weight"]
"""


def test_a_run_that_would_train_nothing(cli, tiny_model):
    Path("nothing.py").write_text(NOTHING)
    path = recipe("mine", tiny_model, {}, method={"name": "./nothing.py"})
    for command in ("run", "check"):
        outcome = cli(command, path)
        assert outcome.code in {1, 2}
        assert "nothing would be trained" in " ".join((outcome.err + outcome.out).split())
    assert not list(Path("runs").glob("mine-*/results/*"))


@pytest.mark.parametrize("command", ["run", "check", "plan"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "merged"}, "model.adapter has no effect"),
        ({"adapter": "stacked", "lora": {"rank": 2}}, "model.adapter has no effect"),
        ({"adapter": "stacked"}, "stacked needs model.lora"),
    ],
)
def test_a_setting_without_effect(cli, tiny_model, command, settings, message):
    outcome = cli(command, recipe("mine", tiny_model, settings))
    assert outcome.code in {1, 2}
    assert message in " ".join((outcome.err + outcome.out).split())


def test_stacked_beside_a_target_that_is_trained(cli, adapter):
    outcome = cli("check", recipe("mine", adapter, LORA[1], target=TRAIN))
    assert outcome.code == 2
    assert "stacked has no effect with target:" in outcome.err


@pytest.mark.parametrize("command", ["run", "check", "plan", "evaluate"])
def test_an_adapter_without_its_base_model(cli, adapter, tmp_path, command):
    folder = tmp_path / "orphan"
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "./gone"}))
    words = [folder, "--benchmark", "custom", "--data", "forget.jsonl"]
    outcome = cli(command, *(words if command == "evaluate" else [recipe("mine", folder, {})]))
    assert outcome.code in {1, 2}
    assert "the base model ./gone of the adapter" in " ".join((outcome.err + outcome.out).split())


def test_a_changed_base_model_is_another_run(cli, tiny_model, tmp_path):
    base = tmp_path / "base"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model.save_pretrained(base)
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "adapter")
    run(cli, "mine", adapter, {})
    model.model.norm.weight.data *= 1.1
    model.save_pretrained(base)
    assert cli("run", recipe("mine", adapter, {})).code == 0
    folders = list(Path("runs").glob("mine-*"))
    assert len(folders) == 2
    assert nll(folders[0], "target-custom") != nll(folders[1], "target-custom")


def cached(model: Path, cache: Path, name: str, commit: str) -> None:
    """Put a folder into the hub's local cache, as a commit of a repository."""
    repository = cache / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(commit)
    # The cache also remembers which files a repository does not have.
    (repository / ".no_exist" / commit).mkdir(parents=True)
    for file in {"config.json", "adapter_config.json"} - {path.name for path in model.iterdir()}:
        (repository / ".no_exist" / commit / file).touch()


def test_models_on_the_hub(tiny_model, tmp_path, monkeypatch):
    """Adapter and base model from the hub's cache; the checkpoint records the revision of the base model."""
    commits = {name: name[0] * 40 for name in ("base", "adapter")}
    adapter = save_adapter(tiny_model, tmp_path / "lora")
    config = json.loads((adapter / "adapter_config.json").read_text())
    settings = {"base_model_name_or_path": "someone/base", "revision": commits["base"]}
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    for name, folder in (("base", tiny_model), ("adapter", adapter)):
        cached(folder, tmp_path / "cache", f"someone/{name}", commits[name])
    # The default revision of the base model is another one, without weights.
    main = tmp_path / "cache/hub/models--someone--base"
    (main / "snapshots" / ("0" * 40)).mkdir()
    (main / "refs/main").write_text("0" * 40)

    def command(*words: object) -> None:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "expunge", *map(str, words)]
        process = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr

    monkeypatch.chdir(tmp_path)
    options = ["--benchmark", "custom", "--data", "forget.jsonl", "--set", "generate=false", "--out"]
    command("evaluate", "someone/adapter", *options, "measured")
    merged = tmp_path / "lora-merged"
    assert nll(tmp_path / "measured", "model-custom") == pytest.approx(plain_nll(merged)[:4], rel=1e-5)
    model = {"name": "someone/base", "revision": commits["base"], "lora": {"rank": 2}}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump({"name": "first", "model": model, **RUN}))
    command("run", "first.yaml")
    (folder,) = tmp_path.glob("runs/first-*")
    config = json.loads((folder / "checkpoint/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/base", commits["base"])
    command("audit", folder, "leaks", "--set", "max_new_tokens=3")
    model = {"name": "someone/adapter", "adapter": "stacked", "lora": {"rank": 2}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump({"name": "second", "model": model, **RUN}))
    command("run", "second.yaml")
    (folder,) = tmp_path.glob("runs/second-*")
    assert nll(folder, "target-custom") == pytest.approx(plain_nll(merged), rel=1e-5)
    config = json.loads((folder / "checkpoint/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/base", commits["base"])
