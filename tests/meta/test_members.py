"""Every packaged recipe is valid, and every packaged method is documented and used."""

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


def test_registry_lists_every_recipe_file():
    """Every YAML file in recipes/ is a recipe or a sweep."""
    files = sorted(path.stem for path in (PACKAGE / "recipes").rglob("*.y*ml"))
    assert files == sorted([*RECIPES, *registry.names("sweep")])
    assert {"quickstart", "tofu-forget10-npo", "tofu-forget10-graddiff", "tofu-forget05-simnpo"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid(name):
    """It loads, has the name of its file, a summary and a description, and loads back from its resolved form."""
    recipe = load_recipe(name)
    assert recipe.name == name
    assert registry.summary("recipe", name)
    assert recipe.description
    assert type(recipe).model_validate(recipe.resolved()).fingerprint() == recipe.fingerprint()
    assert all(number.source for number in recipe.published.values())


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_lists_its_deviations(name):
    """Sentences, or an empty list with the reason beside it; an experiment with published values always has some."""
    recipe = load_recipe(name)
    assert "deviations" in recipe.model_fields_set
    assert all(re.fullmatch(r"[A-Z0-9].{20,}[.)]", sentence) for sentence in recipe.deviations)
    if not recipe.deviations:
        text = registry.packaged("recipe", name).read_text(encoding="utf-8")
        assert re.search(r"^deviations: \[\] +# \w.{15,}", text, re.MULTILINE)
        assert not recipe.published


def test_deviations_change_no_result():
    recipe = load_recipe("wmdp-rmu-zephyr")
    assert recipe.model_copy(update={"deviations": []}).fingerprint() == recipe.fingerprint()


def test_every_method_has_its_own_class():
    assert {"gradascent", "graddiff", "npo", "simnpo"} <= set(METHODS)
    classes = [registry.get("method", name) for name in METHODS]
    assert len(set(classes)) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_is_documented_and_used(name):
    """It has a formula, a paper with an arXiv number, a description of every setting, and a recipe or a test."""
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
