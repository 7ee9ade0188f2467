"""The recipe that `init` writes explains every setting and is a recipe."""

import pytest
import yaml

from expunge.commands.init import commented_recipe, init
from expunge.config.load import load_recipe, read_yaml
from expunge.config.recipe import Evaluate, Model, Prompt, Recipe, Train
from expunge.errors import UserError


def test_it_is_the_quickstart_with_comments(tmp_path):
    place = init(tmp_path / "r.yaml")
    assert load_recipe(place).fingerprint() == load_recipe("quickstart").fingerprint()


@pytest.mark.parametrize("section", [Recipe, Model, Prompt, Train, Evaluate])
def test_every_setting_is_there(section):
    text = commented_recipe()
    for name in section.model_fields:
        assert f"{name}:" in text, name
    for word in ("Precision of forward and backward", "Longest row in tokens", "tofu", "files"):
        assert word in text


def test_alternatives_are_valid_when_uncommented():
    """The commented sections, with one '# ' taken away, are YAML with the keys of the recipe."""
    lines = commented_recipe().splitlines()
    starts = [i for i, line in enumerate(lines) if line in {"# data:", "# model:", "# prompt:"}]
    assert len(starts) == 4
    for start in starts:
        end = next(i for i in range(start, len(lines)) if not lines[i])
        section = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[start:end]))
        assert set(section) <= set(Recipe.model_fields)


def test_it_does_not_overwrite(tmp_path):
    place = tmp_path / "r.yaml"
    place.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        init(place)
    assert place.read_text() == "mine"
    init(place, "quickstart", force=True)
    assert read_yaml(place)["name"] == "quickstart"
