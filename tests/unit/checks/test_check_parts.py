"""Single checks: what they refuse and what they leave to others."""

import json

import pytest

from expunge.checks import settings as checks
from expunge.checks.report import run_checks
from expunge.checks.settings import check_settings
from expunge.commands.check import check
from expunge.config.load import load_recipe
from expunge.data.prepare import is_local
from expunge.errors import ConfigError, IncompatibleError, UserError
from expunge.services.hub import hub_reachable


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub_reachable.cache_clear()
    yield
    hub_reachable.cache_clear()


def statuses(report):
    return {item.name: item.status for item in report.items}


def test_a_method_without_its_retain_set(tmp_path):
    (tmp_path / "f.jsonl").write_text(json.dumps({"question": "a?", "answer": "b"}))
    data = f"data={{name: files, forget: {{path: {tmp_path / 'f.jsonl'}}}}}"
    report = check_settings(load_recipe("quickstart", [data]))
    assert statuses(report)["method"] == "failed"
    with pytest.raises(ConfigError, match=r"needs the set retain.*retain_weight=0"):
        report.raise_failed()
    without = check_settings(load_recipe("quickstart", [data, "method.retain_weight=0"]))
    assert statuses(without)["method"] == "ok"


def test_a_rule_on_a_headline_that_needs_a_retain_model(tmp_path):
    (tmp_path / "compare.py").write_text(
        "from expunge.benchmarks import Benchmark, Label\n"
        "class Compare(Benchmark):\n"
        "    def labels(self):\n"
        "        return {'agreement': Label(title='Agreement', needs_retain_model=True)}\n"
    )
    evaluate = f"evaluate={{benchmarks: [{tmp_path}/compare.py], select: max agreement}}"
    assert check_settings(load_recipe("quickstart", [evaluate])).failed == []
    report = check_settings(load_recipe("quickstart", [evaluate, "retain_model=null"]))
    assert [item.name for item in report.failed] == ["selection"]
    assert "agreement needs a retain model, which this recipe lacks" in report.failed[0].detail


def test_rows_longer_than_the_model_allows():
    report = check(load_recipe("quickstart", ["model.scratch.max_length=20", "data.num_people=10"]))
    failed = {item.name: item.detail for item in report.failed}
    assert set(failed) == {"rows"}
    assert "20" in failed["rows"]


def test_an_unknown_hub_model_is_not_checked_where_the_hub_is_out_of_reach():
    report = check("tofu-forget10-npo", ["model.name=nobody/nothing"])
    items = {item.name: item for item in report.items}
    assert items["model"].status == "not checked"
    assert "out of reach" in items["model"].detail
    assert report.failed == []
    assert report.num_checks == len(report.items) - sum(s == "not checked" for s in statuses(report).values())


def test_layers_outside_the_model(tmp_path):
    (tmp_path / "steer.py").write_text(
        "from expunge.methods.base import RetainMethod\n"
        "class Steer(RetainMethod):\n    '''x'''\n    layer: int = 7\n    modules: list[str] = ['down_proj']\n"
    )
    recipe = f"method={{name: {tmp_path / 'steer.py'}, layer: 9}}"
    items = {item.name: item for item in check("tofu-forget10-npo", [recipe, "method.layer=28"]).items}
    assert "28 is outside the model, which has layers 0 to 27" in items["modules"].detail
    items = {item.name: item for item in check("tofu-forget10-npo", [recipe, "method.modules=[down]"]).items}
    assert "Did you mean 'down_proj'?" in items["modules"].detail
    items = {item.name: item for item in check("tofu-forget10-npo", [recipe]).items}
    assert items["modules"].status == "ok"


def test_one_failure_does_not_stop_the_others():
    def fail() -> str:
        raise UserError("no")

    items = run_checks([("a", fail), ("b", lambda: "fine")])
    assert [(item.name, item.status) for item in items] == [("a", "failed"), ("b", "ok")]


def test_local_data():
    assert is_local(load_recipe("quickstart"))
    assert not is_local(load_recipe("tofu-forget10-npo"))


COPIED = "method={name: graddiff, retain: kl, kl_positions: all}"


def item(settings: list[str], here: bool = True):
    """What is said of the start model's copy."""
    report = check_settings(load_recipe("quickstart", settings), here)
    return next(each for each in report.items if each.name == "start model's copy")


def test_precision_and_device_of_the_start_models_copy():
    assert item([COPIED]).detail == "in float32"
    assert item([COPIED, "model.dtype=bfloat16"]).detail == "in bfloat16"
    assert item([COPIED, "model.frozen_dtype=bfloat16", "model.frozen_device=cpu"]).detail == "in bfloat16"
    assert item(["method={name: graddiff, retain: kl}"]).detail == "none"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["method={name: graddiff, retain: kl}"], "graddiff, with these settings, keeps no copy"),
        ([COPIED, "model.lora={rank: 2}"], "with model.lora the start model is the model with its adapter off"),
    ],
)
def test_settings_of_a_copy_that_is_not_there_are_refused(settings, reason):
    for setting in ("frozen_dtype=float16", "frozen_device=cpu"):
        found = item([*settings, f"model.{setting}"])
        assert found.status == "failed"
        assert f"model.{setting.split('=')[0]} has no effect: {reason}" in found.detail


def test_a_device_that_is_not_here():
    """An error here; for a plan of another machine, something that cannot be told."""
    settings = [COPIED, "model.frozen_device=cuda:99"]
    assert item(settings).status == "failed"
    assert "model.frozen_device is 'cuda:99', but there is no such device here" in item(settings).detail
    assert "Allowed: cpu" in item(settings).detail
    assert item(settings, here=False).status == "not checked"


def test_a_copy_beside_flash_attention():
    device, flash = "model.frozen_device=cpu", "model.attention=flash_attention_2"
    for settings in ([COPIED, flash, device], [COPIED, flash, "model.dtype=bfloat16", "model.frozen_dtype=float32"]):
        assert "flash attention runs in half precision on a GPU only" in item(settings).detail


def test_a_copy_beside_several_processes(monkeypatch):
    """Asked alone: transformers would remember for good how many processes it was told of."""
    alone, beside = (load_recipe("quickstart", [COPIED, *more]) for more in ([], ["model.frozen_device=cpu"]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(IncompatibleError, match="2 processes would all keep their copy on cpu"):
        checks._frozen(beside)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert checks._frozen(alone) == "in float32, in shards"
    with pytest.raises(IncompatibleError, match=r"model.frozen_device has no effect: with FSDP"):
        checks._frozen(beside)


def test_where_the_copy_is_makes_no_other_run():
    first, device, dtype = (
        load_recipe("quickstart", [COPIED, *more])
        for more in ([], ["model.frozen_device=cpu"], ["model.frozen_dtype=bfloat16"])
    )
    assert first.fingerprint() == device.fingerprint() != dtype.fingerprint()
