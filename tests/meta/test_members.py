"""Every recipe and every method is whole: valid, documented, and used somewhere."""

import re
from pathlib import Path

import pytest

import expunge
from expunge import registry
from expunge.config.load import load_recipe

PACKAGE = Path(expunge.__file__).parent
TESTS = Path(__file__).parent.parent
RECIPES = registry.names("recipe")
METHODS = registry.names("method")


def test_no_recipe_is_overlooked():
    """Every YAML file below recipes/ is listed by the registry, as a recipe or as a sweep."""
    files = sorted(path.stem for path in (PACKAGE / "recipes").rglob("*.y*ml"))
    assert files == sorted([*RECIPES, *registry.names("sweep")])
    assert {"quickstart", "tofu-forget10-npo", "tofu-forget10-graddiff", "tofu-forget05-simnpo"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    """It validates, is called like its file, says what it is, and loads back from its own resolved form."""
    recipe = load_recipe(name)
    assert recipe.name == name
    assert registry.summary("recipe", name)
    assert recipe.description
    assert type(recipe).model_validate(recipe.resolved()).fingerprint() == recipe.fingerprint()
    assert all(number.source for number in recipe.published.values())


def test_the_first_methods_are_there():
    assert {"gradascent", "graddiff", "npo", "simnpo"} <= set(METHODS)
    classes = [registry.get("method", name) for name in METHODS]
    assert len(set(classes)) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_is_documented_and_used(name):
    """A formula in the class's docstring, a paper with its number, a line on every setting, and a recipe or a test."""
    method = registry.get("method", name)
    assert registry.summary("method", name)
    formula = re.compile(r"^ *\S.* (=|<-|minimise) ", re.MULTILINE)
    assert formula.search(method.__doc__ or ""), "no formula"
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", method.paper), "no paper"
    undocumented = [key for key, field in method.model_fields.items() if not field.description]
    assert undocumented == []
    recipes = [load_recipe(recipe).method.name for recipe in RECIPES]
    word = re.compile(rf"\b({name}|{method.__name__})\b")
    tested = any(word.search(path.read_text(encoding="utf-8")) for path in TESTS.rglob("test_*.py"))
    assert name in recipes or tested
