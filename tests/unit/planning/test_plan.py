"""`plan`: every packaged recipe offline, advice that holds, and rows cut as the training cuts them."""

import json

import pytest

from expunge import registry
from expunge.cli.plan import advice
from expunge.commands.plan import plan
from expunge.config.load import load_recipe
from expunge.data.templates import Encoded
from expunge.errors import ConfigError
from expunge.planning import planner as planning
from expunge.planning.gpus import gpus
from expunge.planning.planner import Planner, on_card
from expunge.planning.workload import training_rows, workload
from expunge.training.batching import BatchPlan


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The hub is not even asked whether it is there."""

    def asked():
        raise AssertionError("a plan of a packaged recipe needs no hub")

    monkeypatch.setattr(planning, "hub_reachable", asked)


@pytest.mark.parametrize("name", [name for name in registry.names("recipe") if not name.startswith("whp-books")])
def test_packaged_recipes_are_planned_offline(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("forget", "retain"):  # of the recipes whose data is the user's own
        place = tmp_path / "books" / part
        place.mkdir(parents=True)
        (place / "one.txt").write_text(f"The {part} book tells of a lighthouse. " * 400)
    report = plan(name)
    assert report.trainings
    for cost in report.trainings.values():
        assert cost.memory.total_bytes == max(cost.memory.moments.values()) > 4 * cost.memory.num_parameters / 2
        assert cost.flops_per_step > 0
        assert [fit.gpu for fit in cost.gpus] == [gpu.name for gpu in gpus()]
        for fit in cost.gpus:
            assert (fit.seconds_per_step is None) == (fit.num_gpus is None)
            assert not (fit.fits and fit.changes)
    json.loads(report.model_dump_json())


def test_advice_fits_when_it_is_followed():
    """The settings that a plan names, given as overrides, make a plan that fits on that card."""
    fits = {fit.gpu: fit for fit in plan("tofu-forget10-npo").trainings["train"].gpus}
    followed = [fit for fit in fits.values() if not fit.fits and fit.num_gpus == 1]
    assert followed
    for fit in followed:
        again = next(
            each for each in plan("tofu-forget10-npo", fit.changes).trainings["train"].gpus if each.gpu == fit.gpu
        )
        assert again.fits
        assert again.total_bytes == fit.total_bytes
    shared = next(fit for fit in fits.values() if (fit.num_gpus or 1) > 1)
    assert advice(shared).startswith(f"FSDP over {shared.num_gpus} GPUs")


def test_workload_cuts_rows_as_the_training_does():
    """Rows of 3 to 22 tokens, 7 a step in three micro-batches: positions and answers of the plan's own batches."""
    rows = {
        name: [Encoded(tuple(range(3 + (index * step) % 20)), 1) for index in range(20)]
        for name, step in (("forget", 3), ("retain", 7))
    }
    changes = ["train.batch_size=7", "train.device_batch_size=3", "train.epochs=null", "train.steps=4"]
    recipe = load_recipe("quickstart", ["method={name: simnpo}", *changes])
    planner = Planner(recipe)
    case = planner.case("train")
    found = workload(recipe, "train", recipe.train, rows, case.shape)
    plan_ = BatchPlan(rows, pad_id=0, epochs=None, steps=4, batch_size=7, device_batch_size=3, seed=recipe.seed)
    answers = [sum(batch.labels.size for batch in plan_[index]["batches"].values()) for index in range(len(plan_))]
    assert found.answers_per_step == pytest.approx(sum(answers) / 4)
    assert sum(found.widest.answers) in answers
    tokens = [
        sum(int(batch.attention_mask.sum()) for batch in plan_[index]["batches"].values())
        for index in range(len(plan_))
    ]
    assert sum(tokens) / 4 <= found.positions_per_step < 1.2 * sum(tokens) / 4
    assert found.accumulation == 3


def test_target_and_retain_model_take_their_own_rows():
    """The target learns all rows, the retain model all but the forget set; both fine-tune every weight."""
    planner = Planner(load_recipe("quickstart"))
    rows = {part: training_rows(planner.recipe, part, planner.rows) for part in planner.sections}
    forget = len(rows["train"]["forget"])
    assert len(rows["target"]["train"]) == forget + len(rows["retain_model"]["train"])
    memory = planner.case("target").memory
    assert memory.num_trainable == memory.num_parameters
    assert on_card(memory) < memory.total_bytes


def test_mistakes_are_told_as_check_tells_them():
    with pytest.raises(ConfigError, match="beat"):
        plan("quickstart", ["method.beat=1"])
    with pytest.raises(ConfigError, match="optimizer"):
        plan("quickstart", ["train.optimizer=adamv"])


@pytest.mark.parametrize("room", [2, 0.001, 0])
def test_a_store_is_planned_where_rows_come_again(room):
    """400 forget rows over five epochs, 2,000 of 3,600 retain rows once: 4 bytes x width x the forget rows' tokens.

    One state stands for all of a row's padding.
    """
    settings = ["method.positions=all", f"method.store_gib={room}", "method.update_layers=[5,6,7]", "train.epochs=5"]
    planner = Planner(load_recipe("tofu-forget10-rmu", settings))
    case = planner.case("train")
    rows = training_rows(planner.recipe, "train", planner.rows)
    tokens = sum(len(row.ids) + 1 for row in rows["forget"])
    assert case.work.stored_bytes == min(4 * case.shape.hidden * tokens, int(room * 2**30))


@pytest.mark.parametrize(
    ("retain", "name"), [("{retain: kl}", "retain"), ("{}", ""), ("{retain: kl, kl_positions: all}", "")]
)
def test_the_start_models_states_are_planned_on_disk(retain, name):
    """4 bytes x width x the answer tokens of the retain rows of one pass: 400 of TOFU's 3,600."""
    settings = [f"method={retain.replace('{', '{name: graddiff, ')}", "train={epochs: 1, lr: 1e-5, batch_size: 8}"]
    planner = Planner(load_recipe("tofu-forget10-graddiff", settings))
    case, rows = planner.case("train"), training_rows(planner.recipe, "train", planner.rows)
    few = 400 * min(row.num_answer for row in rows["retain"])
    many = 400 * max(row.num_answer for row in rows["retain"])
    assert (
        few * 4 * case.shape.hidden <= case.work.file_bytes <= many * 4 * case.shape.hidden
        if name
        else (case.work.file_bytes == 0)
    )
