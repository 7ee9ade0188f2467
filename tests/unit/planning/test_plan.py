"""`plan`: every packaged recipe offline, advice that fits, and micro-batches as in the training."""

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

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Fail if the hub is contacted."""

    def fail():
        raise AssertionError("a plan of a packaged recipe needs no hub")

    monkeypatch.setattr(planning, "hub_reachable", fail)


@pytest.mark.parametrize("name", [name for name in registry.names("recipe") if not name.startswith("whp-books")])
def test_packaged_recipes_are_planned_offline(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name_of_set in ("forget", "retain"):  # for recipes on user-provided data
        folder = tmp_path / "books" / name_of_set
        folder.mkdir(parents=True)
        (folder / "one.txt").write_text(f"The {name_of_set} book tells of a lighthouse. " * 400)
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


def test_advised_settings_fit():
    """With the advised settings as overrides, the plan fits on that card."""
    fits = {fit.gpu: fit for fit in plan("tofu-forget10-npo").trainings["train"].gpus}
    followed = [fit for fit in fits.values() if not fit.fits and fit.num_gpus == 1]
    assert followed
    for fit in followed:
        again = next(
            result for result in plan("tofu-forget10-npo", fit.changes).trainings["train"].gpus if result.gpu == fit.gpu
        )
        assert again.fits
        assert again.total_bytes == fit.total_bytes
    shared = next(fit for fit in fits.values() if (fit.num_gpus or 1) > 1)
    assert advice(shared).startswith(f"FSDP over {shared.num_gpus} GPUs")


def test_micro_batches_are_those_of_the_training():
    """Rows of 3 to 22 tokens, 7 per step in three micro-batches: positions and answers as in `BatchPlan`."""
    rows = {
        name: [Encoded(tuple(range(3 + (index * step) % 20)), 1) for index in range(20)]
        for name, step in (("forget", 3), ("retain", 7))
    }
    changes = ["train.batch_size=7", "train.device_batch_size=3", "train.epochs=null", "train.steps=4"]
    recipe = load_recipe("quickstart", ["method={name: simnpo}", *changes])
    planner = Planner(recipe)
    case = planner.case("train")
    work = workload(recipe, "train", recipe.train, rows, case.shape)
    plan_ = BatchPlan.of(recipe.train, rows, None, pad_id=0, world_size=1, seed=recipe.seed)
    answers = [sum(batch.labels.size for batch in plan_[index]["batches"].values()) for index in range(len(plan_))]
    assert work.answers_per_step == pytest.approx(sum(answers) / 4)
    assert sum(work.widest.answers) in answers
    tokens = [
        sum(int(batch.attention_mask.sum()) for batch in plan_[index]["batches"].values())
        for index in range(len(plan_))
    ]
    assert sum(tokens) / 4 <= work.positions_per_step < 1.2 * sum(tokens) / 4
    assert work.accumulation == 3


def test_rows_of_target_and_retain_model():
    """The target is trained on all rows, the retain model on all but the forget set; both on every weight."""
    planner = Planner(load_recipe("quickstart"))
    rows = {section: training_rows(planner.recipe, section, planner.rows) for section in planner.sections}
    forget = len(rows["train"]["forget"])
    assert len(rows["target"]["train"]) == forget + len(rows["retain_model"]["train"])
    memory = planner.case("target").memory
    assert memory.num_trainable == memory.num_parameters
    assert on_card(memory) < memory.total_bytes


def test_mistakes_are_reported_as_by_check():
    with pytest.raises(ConfigError, match="beat"):
        plan("quickstart", ["method.beat=1"])
    with pytest.raises(ConfigError, match="optimizer"):
        plan("quickstart", ["train.optimizer=adamv"])


@pytest.mark.parametrize("gib", [2, 0.001, 0])
def test_stored_hidden_states_are_planned(gib):
    """400 forget rows over five epochs, 2,000 of 3,600 retain rows once: 4 bytes x width x the forget rows' tokens.

    All padding of a row has one stored state.
    """
    settings = ["method.positions=all", f"method.store_gib={gib}", "method.update_layers=[5,6,7]", "train.epochs=5"]
    planner = Planner(load_recipe("tofu-forget10-rmu", settings))
    case = planner.case("train")
    rows = training_rows(planner.recipe, "train", planner.rows)
    tokens = sum(len(row.ids) + 1 for row in rows["forget"])
    assert case.work.stored_bytes == min(4 * case.shape.hidden * tokens, int(gib * 2**30))


@pytest.mark.parametrize(
    ("retain", "name"), [("{retain: kl}", "retain"), ("{}", ""), ("{retain: kl, kl_positions: all}", "")]
)
def test_hidden_states_of_the_reference_are_planned_on_disk(retain, name):
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
