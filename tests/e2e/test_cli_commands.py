"""What commands print when all is well; JSON is the whole of standard output."""

import json

import pytest

from expunge import registry
from expunge.config.load import load_recipe


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_packaged_recipes_pass_check_offline(cli, name):
    outcome = cli("check", name, "--json")
    report = json.loads(outcome.out)
    assert [item for item in report["items"] if item["status"] == "failed"] == []
    assert outcome.code == 0
    checked = {item["name"] for item in report["items"] if item["status"] == "ok"}
    assert {"settings", "method", "selection", "model"} <= checked
    assert ("train arguments" in checked) == (load_recipe(name).train is not None)


def test_check_lists_every_failure_at_once(cli, recipe_file):
    outcome = cli(
        "check",
        recipe_file,
        "model.lora.targets=[q_projj]",
        "train.optimizer=adamm",
        "data.forget.path=gone.jsonl",
    )
    assert outcome.code == 2
    failed = [line.split("  ")[0] for line in outcome.out.splitlines() if "  failed  " in line]
    assert failed == ["train arguments", "modules", "data"]
    assert "Did you mean 'q_proj'?" in outcome.out
    assert "3 failed" in outcome.out


def test_check_reads_rows_and_weights(cli, recipe_file):
    items = {item["name"]: item for item in json.loads(cli("check", recipe_file, "--json").out)["items"]}
    assert items["data"]["detail"].startswith("1 forget, 1 retain")
    assert items["rows"]["status"] == "ok"
    assert "1 complete file" in items["weights"]["detail"]


def test_dry_run(cli):
    """400 rows, 5 epochs of batch 16: floor(5 x 400 / 16) = 125 steps, floor(400 / 16) = 25 of them warm-up."""
    plan = json.loads(cli("run", "tofu-forget10-npo", "--dry-run", "--json").out)
    assert plan["trainings"]["train"] == {
        "rows": 400,
        "batch_size": 16,
        "device_rows": 8,
        "accumulation": 2,
        "steps": 125,
        "warmup_steps": 25,
    }
    assert plan["memory"]["train"]["num_parameters"] == 3_212_749_824
    text = cli("run", "tofu-forget10-npo", "--dry-run").out
    assert "125 steps of 16 rows" in text
    assert "GiB" in text


def test_ls_covers_everything_that_can_be_named(cli):
    entries = json.loads(cli("ls", "--json").out)
    assert {(entry["kind"], entry["name"]) for entry in entries} == {
        (kind, name) for kind in registry.KINDS for name in registry.names(kind)
    }
    assert all(entry["summary"] for entry in entries)
    assert [entry["name"] for entry in json.loads(cli("ls", "recipes", "--json").out)] == registry.names("recipe")


def test_sweeps_are_listed_and_shown(cli):
    listed = [item["name"] for item in json.loads(cli("ls", "sweeps", "--json").out)]
    assert "tofu-forget10-npo-sweep" in listed
    for name in listed:
        assert cli("show", name).out.rstrip() == registry.packaged("sweep", name).read_text().rstrip()
        assert cli("sweep", name, "--dry-run").code == 0


def test_show_gives_formula_settings_and_paper(cli):
    text = cli("show", "simnpo").out
    for part in ("L_forget =", "gamma_form", "code or paper", "arXiv:2410.07163"):
        assert part in text
    assert "unit: none" in cli("show", "truth_ratio").out
    assert cli("show", "quickstart").out.rstrip() == registry.packaged("recipe", "quickstart").read_text().rstrip()


def test_init_writes_a_recipe_that_passes_check(cli, tmp_path):
    assert cli("init", "new.yaml").code == 0
    again = cli("init", "new.yaml")
    assert again.code == 2
    assert "--force" in again.err
    assert cli("init", "new.yaml", "--force", "--from", "tofu-forget10-npo").code == 0
    assert (tmp_path / "new.yaml").read_text() == registry.packaged("recipe", "tofu-forget10-npo").read_text()


def test_evaluate_prints_headlines_with_what_is_missing(cli, tiny_model, tmp_path):
    words = ["evaluate", tiny_model, "--data", "synthetic", "--set", "data.num_people=4", "--set", "ds_size=6"]
    words += ["--set", "max_new_tokens=2", "--set", "data.forget_fraction=0.3", "--set", "evaluate.bootstrap=0"]
    outcome = cli(*words, "--out", "measured", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert "retain" in result["forget_quality"]["needs"]
    assert result["model_utility"]["point"] is not None
    stored = tmp_path / "measured/results/model-tofu.json"
    assert json.loads(stored.read_text()) == result["record"]
    quality = json.loads(cli(*words, "--retain-model", stored, "--json").out)["forget_quality"]
    assert quality["point"] == 1.0  # the same model: the two samples are equal
    text = cli("score-log", stored, "--retain-model", stored).out
    assert "Forget quality  1.0" in text


def test_schema_knows_settings_of_members(cli):
    schema = json.loads(cli("schema").out)
    assert "beta" in schema["$defs"]["method-npo"]["properties"]
    assert {"$ref": "#/$defs/method-npo"} in schema["properties"]["method"]["anyOf"]


def test_doctor(cli):
    found = json.loads(cli("doctor", "--json").out)
    assert found["packages"]["torch"]
    assert found["hub"] is False
    assert any("hub" in problem for problem in found["problems"])
    assert "Devices" in cli("doctor").out
