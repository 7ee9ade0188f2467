"""Single checks: what they accept, reject and skip."""

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
    """Status of each check by name."""
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


def test_selection_needs_retain_model_and_benchmark():
    """A missing retain model is found by the check, headlines that no benchmark has already by the loader."""
    report = check_settings(load_recipe("quickstart", ["retain_model=null"]))
    assert [item.name for item in report.failed] == ["selection"]
    assert "forget_quality needs a retain model, which this recipe lacks" in report.failed[0].detail
    with pytest.raises(ConfigError, match=r"evaluate\.benchmarks is empty"):
        load_recipe("quickstart", ["evaluate.benchmarks=[]"])
    with pytest.raises(ConfigError, match=r"'model_utilty' is not a headline.*Did you mean 'model_utility'"):
        load_recipe("quickstart", ["evaluate.select=max model_utilty"])


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


def test_an_unknown_hub_model_is_not_checked_without_the_hub():
    report = check("tofu-forget10-npo", ["model.name=nobody/nothing"])
    items = {item.name: item for item in report.items}
    assert items["model"].status == "not checked"
    assert "out of reach" in items["model"].detail
    assert report.failed == []
    assert report.num_checks == len(report.items) - sum(s == "not checked" for s in statuses(report).values())


STEER = """
from dataclasses import replace
from expunge.methods.base import RetainMethod

class Steer(RetainMethod):
    '''x'''
    layer: int = 7
    modules: list[str] = ["down_proj"]
    depth: int = 99

    def needs(self):
        return replace(super().needs(), layers={"layer": [self.layer]}, modules={"modules": self.modules})
"""


def test_declared_layers_and_modules_are_in_the_model(tmp_path):
    """Settings that `needs` declares are verified; others, such as `depth`, mean nothing to `check`."""
    (tmp_path / "steer.py").write_text(STEER)
    recipe = f"method={{name: {tmp_path / 'steer.py'}, layer: 9}}"
    items = {item.name: item for item in check("tofu-forget10-npo", [recipe, "method.layer=28"]).items}
    assert "28 is outside the model, which has layers 0 to 27" in items["modules"].detail
    items = {item.name: item for item in check("tofu-forget10-npo", [recipe, "method.modules=[down]"]).items}
    assert "Did you mean 'down_proj'?" in items["modules"].detail
    items = {item.name: item for item in check("tofu-forget10-npo", [recipe]).items}
    assert items["modules"].status == "ok"
    assert items["modules"].detail == "method.layer is inside the model; method.modules is inside the model"


def test_declared_trainings_are_checked():
    """A method's own fine-tuning has an optimizer too, which is named by its full path where it is wrong."""
    items = {item.name: item for item in check_settings(load_recipe("tofu-forget10-taskvector")).items}
    assert items["method.train arguments"].status == "ok"
    wrong = check_settings(load_recipe("tofu-forget10-taskvector", ["method.train.optimizer=adamm"]))
    assert "method.train.optimizer: transformers has no optimizer 'adamm'" in wrong.failed[0].detail


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
    """Result of the check of the reference copy."""
    report = check_settings(load_recipe("quickstart", settings), here)
    return next(result for result in report.items if result.name == "reference copy")


def test_precision_and_device_of_the_reference_copy():
    assert item([COPIED]).detail == "in float32"
    assert item([COPIED, "model.dtype=bfloat16"]).detail == "in bfloat16"
    assert item([COPIED, "model.frozen_dtype=bfloat16", "model.frozen_device=cpu"]).detail == "in bfloat16"
    assert item(["method={name: graddiff, retain: kl}"]).detail == "none"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["method={name: graddiff, retain: kl}"], "graddiff with these settings needs no copy"),
        ([COPIED, "model.lora={rank: 2}"], "with model.lora the reference is the model with its adapter off"),
    ],
)
def test_settings_of_a_copy_that_is_not_needed_are_rejected(settings, reason):
    for setting in ("frozen_dtype=float16", "frozen_device=cpu"):
        result = item([*settings, f"model.{setting}"])
        assert result.status == "failed"
        assert f"model.{setting.split('=')[0]} has no effect: {reason}" in result.detail


def test_a_device_that_is_not_here():
    """An error here; unknown in a plan for another machine."""
    settings = [COPIED, "model.frozen_device=cuda:99"]
    assert item(settings).status == "failed"
    assert "model.frozen_device is 'cuda:99', but there is no such device here" in item(settings).detail
    assert "Allowed: cpu" in item(settings).detail
    assert item(settings, here=False).status == "not checked"


def test_a_copy_with_flash_attention():
    device, flash = "model.frozen_device=cpu", "model.attention=flash_attention_2"
    for settings in ([COPIED, flash, device], [COPIED, flash, "model.dtype=bfloat16", "model.frozen_dtype=float32"]):
        assert "flash attention, which the copy uses too, needs half precision and a GPU" in item(settings).detail


def test_a_copy_with_several_processes(monkeypatch):
    """Called directly, because transformers caches the number of processes for the rest of the test session."""
    default, on_cpu = (load_recipe("quickstart", [COPIED, *more]) for more in ([], ["model.frozen_device=cpu"]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(IncompatibleError, match="2 processes would all have their copy on cpu"):
        checks.check_reference_copy(on_cpu)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert checks.check_reference_copy(default) == "in float32, sharded"
    with pytest.raises(IncompatibleError, match=r"model.frozen_device has no effect: with FSDP"):
        checks.check_reference_copy(on_cpu)


def test_the_device_of_the_copy_does_not_change_the_fingerprint():
    first, device, dtype = (
        load_recipe("quickstart", [COPIED, *more])
        for more in ([], ["model.frozen_device=cpu"], ["model.frozen_dtype=bfloat16"])
    )
    assert first.fingerprint() == device.fingerprint() != dtype.fingerprint()
