"""Sweep files: axes, rules, overrides, and every mistake of a user by name."""

import pytest

from expunge.config.axes import Axis
from expunge.config.sweep import check_trials, differences, load_sweep, parse_sweep
from expunge.errors import ConfigError

BOTH = {"forget_quality": "up", "model_utility": "up"}


def data(**changes):
    base = {"name": "mine", "recipe": "quickstart", "over": {"train.lr": [1e-4, 1e-3], "method.beta": [0.1, 0.5]}}
    return {**base, **changes}


@pytest.mark.parametrize(
    ("given", "points"),
    [
        ([1, "a", None], [1, "a", None]),
        ({"range": [0, 1], "num": 3}, [0.0, 0.5, 1.0]),
        ({"range": [1, 9], "step": 4}, [1, 5, 9]),
        ({"range": [0.1, 0.35], "step": 0.1}, [0.1, 0.2, 0.3]),
        ({"range": [1, 5], "num": 1}, [1]),
        ({"log_range": [1e-5, 1e-3], "num": 3}, [1e-5, 1e-4, 1e-3]),
        ({"log_range": [1, 100], "num": 3}, [1, 10, 100]),
        ({"range": [0.0, 1.0]}, None),
    ],
)
def test_points_of_an_axis(given, points):
    """log_range: low * (high / low)^(i / (num - 1)), so 1e-5, 1e-4, 1e-3; whole ends with whole points stay whole."""
    found = Axis.model_validate(given).points()
    assert found == points
    assert [type(point) for point in found or ()] == [type(point) for point in points or ()]


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ([], "over.train.lr: is empty; list at least one value"),
        (3, "must be a list"),
        ({"range": [1, 0], "num": 2}, "in ascending order (given: [1, 0])"),
        ({"log_range": [0, 1], "num": 2}, "needs two numbers above 0"),
        ({"range": [1], "num": 2}, "a range has two ends"),
        ({"range": [0, 1], "num": 2, "step": 0.5}, "set only one of step and num"),
        ({"log_range": [1, 2], "step": 0.5}, "step has no effect with log_range"),
        ({"values": [1], "num": 2}, "no effect with a list"),
        ({"range": [0, 1], "log_range": [1, 2]}, "set exactly one of"),
        ({"range": [0, 1], "nums": 2}, "Did you mean 'num'?"),
        ({"range": [0.0, 1.0]}, "a grid needs finitely many values"),
    ],
)
def test_a_wrong_axis_is_named(axis, words):
    with pytest.raises(ConfigError) as caught:
        parse_sweep(data(over={"train.lr": axis}))
    assert words in str(caught.value)
    assert "train.lr" in str(caught.value)


@pytest.mark.parametrize(
    ("select", "objectives", "words"),
    [
        ("best forget_quality", BOTH, "is not a rule. Write 'max NAME'"),
        ("max a subject to b > 1", BOTH, "is not a rule"),
        ("max a subject to b >= 1.2.3", BOTH, "'1.2.3' is not a number"),
        ("max mean of both", {"forget_quality": "up"}, "needs at least two objectives"),
        ("max mean of both", {"forget_quality": "up", "loss": "down"}, "loss is not"),
    ],
)
def test_wrong_rules_are_refused(select, objectives, words):
    with pytest.raises(ConfigError, match="problem") as caught:
        parse_sweep(data(select=select, objectives=objectives))
    assert words in str(caught.value)


def test_the_grid_is_the_product_with_the_last_axis_fastest():
    grid = parse_sweep(data()).grid()
    assert [(each["train.lr"], each["method.beta"]) for each in grid] == [
        (1e-4, 0.1),
        (1e-4, 0.5),
        (1e-3, 0.1),
        (1e-3, 0.5),
    ]


def test_a_trial_is_the_recipe_with_its_settings():
    """A section given whole replaces the recipe's, and an axis may then change a setting inside it."""
    sweep = parse_sweep(data(set={"seed": 7, "train": {"epochs": 2, "lr": 9.0, "batch_size": 4}}))
    recipe = sweep.trial(sweep.grid()[3])
    assert (recipe.seed, recipe.train.epochs, recipe.train.lr, recipe.train.batch_size) == (7, 2, 1e-3, 4)
    assert recipe.method.beta == 0.5
    assert "train.lr" not in sweep.recipe


def test_overrides_reach_set_over_and_prune():
    sweep = parse_sweep(
        data(prune="asha"),
        ["over.train.lr=[5e-4]", "over.method.beta=null", "set.model.scratch.vocab_size=512", "prune.min_epochs=2"],
    )
    assert sweep.grid() == [{"train.lr": 5e-4}]
    assert sweep.set == {"model.scratch.vocab_size": 512}
    assert sweep.prune is not None
    assert (sweep.prune.name, sweep.prune.min_epochs) == ("asha", 2)
    assert parse_sweep(data(), ["prune=median", "prune.min_epochs=3"]).prune.min_epochs == 3
    assert parse_sweep(data(prune="none")).prune is None


def test_nested_axes_are_dotted_ones():
    nested = parse_sweep(data(over={"train": {"lr": [1.0]}, "method": {"beta": {"range": [0, 1], "num": 2}}}))
    assert list(nested.over) == ["train.lr", "method.beta"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"smapler": "grid"}, "Did you mean 'sampler'?"),
        ({"sampler": "tpee"}, "Did you mean 'tpe'?"),
        ({"sampler": "random"}, "trials: is missing"),
        ({"over": {}}, "over"),
        ({"set": {"train.lr": 1}}, "train.lr is listed in both set and over"),
        ({"workers": 2}, "workers has no effect with executor in-process"),
        ({"prune": "ashaa"}, "Did you mean 'asha'?"),
        ({"prune": {"name": "median", "factor": 2}}, "factor has no effect with median"),
        ({"objectives": {}}, "objectives: is empty"),
        ({"objectives": {"forget_quality": "upp"}}, "objectives.forget_quality"),
        ({"final": ["tofuu"]}, "no benchmark is called 'tofuu'"),
        ({"recipe": "quickstrat"}, "Did you mean 'quickstart'?"),
        ({"recipe": "gone.yaml"}, "the file gone.yaml does not exist"),
    ],
)
def test_wrong_settings_are_named(changes, words):
    with pytest.raises(ConfigError) as caught:
        parse_sweep(data(**changes))
    assert words in str(caught.value)


def test_every_problem_of_the_trials_at_once():
    """A key that no recipe has (with the nearest), and a value that is not allowed."""
    sweep = parse_sweep(data(over={"train.lrr": [1], "method.beta": [0.1, -1]}))
    with pytest.raises(ConfigError) as caught:
        check_trials(sweep)
    assert len(caught.value.problems) == 2
    assert "train.lrr: there is no setting 'lrr' in train. Did you mean 'lr'?" in str(caught.value)
    assert "method.beta" in str(caught.value)


def test_pruning_needs_epochs_to_look_at():
    sweep = parse_sweep(data(prune="asha", set={"evaluate.every_epoch": False, "evaluate.select": "last"}))
    with pytest.raises(ConfigError, match="every_epoch: true"):
        check_trials(sweep)


def test_continuous_axes_are_checked_at_their_ends():
    sweep = parse_sweep(data(sampler="random", trials=3, over={"method.beta": {"range": [-0.5, 1.0]}}))
    with pytest.raises(ConfigError, match=r"method\.beta"):
        check_trials(sweep)


def test_identity_ignores_what_changes_no_trial():
    sweep = parse_sweep(data())
    same = parse_sweep(data(executor="ray", workers=2, keep=3, max_hours=1, trials=4, description="x"))
    assert same.fingerprint() == sweep.fingerprint()
    assert parse_sweep(data(select="max model_utility")).fingerprint() != sweep.fingerprint()
    assert parse_sweep(data(), ["set.seed=3"]).fingerprint() != sweep.fingerprint()


def test_a_resolved_sweep_loads_back():
    sweep = parse_sweep(data(over={"train.lr": {"log_range": [1e-4, 1e-2], "num": 3}}, prune="asha", final=["tofu"]))
    again = parse_sweep(sweep.resolved())
    assert again.fingerprint() == sweep.fingerprint()
    assert again.resolved() == sweep.resolved()


def test_differences_are_dotted():
    old = {"recipe": {"seed": 1, "train": {"lr": 1e-3}}, "keep": 1}
    assert differences(old, {"recipe": {"seed": 1, "train": {"lr": 2e-3, "steps": 4}}, "keep": 1}) == [
        "recipe.train.lr: 0.001 -> 0.002",
        "recipe.train.steps: not set -> 4",
    ]


def test_the_published_sweep_has_54_trials():
    sweep = load_sweep("tofu-forget10-npo-sweep")
    recipes = check_trials(sweep)
    assert len({recipe.fingerprint() for recipe in recipes}) == 54
    assert {recipe.train.epochs for recipe in recipes} == {5, 10}
    with pytest.raises(ConfigError, match="Did you mean 'tofu-forget10-npo-sweep'"):
        load_sweep("tofu-forget10-npo-swep")


def test_a_recipe_beside_the_sweep_is_found(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/own.yaml").write_text("name: own\nmodel: {name: x}\ndata: {name: synthetic}\nmethod: npo\n")
    (tmp_path / "deep/sweep.yaml").write_text("name: s\nrecipe: own.yaml\nover: {seed: [1, 2]}\n")
    monkeypatch.chdir(tmp_path)
    assert load_sweep("deep/sweep.yaml").recipe["name"] == "own"
