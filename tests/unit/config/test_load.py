"""Overrides and YAML: what a user writes is what the recipe holds."""

import pytest

from expunge.config.load import load_recipe, parse_member, read_yaml
from expunge.errors import ConfigError


def test_an_override_changes_only_the_place_that_it_names():
    """In quickstart, `retain` is a YAML alias of `target`."""
    before = load_recipe("quickstart")
    recipe = load_recipe("quickstart", ["target.epochs=3"])
    assert before.target == before.retain_model
    assert recipe.target.epochs == 3
    assert recipe.retain_model == before.retain_model


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1e-5\nb: 2E3\nc: 1e\nd: '1e-5'\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1e-5, "b": 2000.0, "c": "1e", "d": "1e-5"}
    assert load_recipe("quickstart", ["train.trainer_extra.x=1e-5"]).train.trainer_extra == {"x": 1e-5}


def test_words_are_words(tmp_path):
    """YAML 1.1 would read off as false: the value 'off' could not be given, and seed=no would be 0."""
    assert load_recipe("quickstart", ["data.duplicates=off"]).data.duplicates == "off"
    with pytest.raises(ConfigError, match="seed"):
        load_recipe("quickstart", ["seed=no"])
    assert load_recipe("quickstart", ["model.gradient_checkpointing=true"]).model.gradient_checkpointing is True


def test_names_in_lists_take_settings():
    recipe = load_recipe("tofu-forget10-npo", ["evaluate.benchmarks.0.ds_size=3"])
    assert recipe.evaluate.benchmarks[0].ds_size == 3


def test_another_method_starts_from_its_own_defaults():
    recipe = load_recipe("tofu-forget05-simnpo", ["method.name=npo"])
    assert recipe.method.spec() == {**parse_member("method", {"name": "npo"}).spec()}


def test_resolved_recipes_load_back():
    for name in ("quickstart", "tofu-forget10-npo"):
        recipe = load_recipe(name)
        assert type(recipe).model_validate(recipe.resolved()).fingerprint() == recipe.fingerprint()


def test_members_outside_a_recipe_are_checked_alike():
    with pytest.raises(ConfigError, match="Did you mean 'beta'"):
        parse_member("method", {"name": "npo", "betta": 1})


def test_an_alias_inside_itself(tmp_path):
    (tmp_path / "loop.yaml").write_text("a: &x\n  b: *x\n")
    with pytest.raises(ConfigError, match="alias"):
        read_yaml(tmp_path / "loop.yaml")


def test_a_folder_called_like_a_recipe_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert load_recipe("quickstart").name == "quickstart"
