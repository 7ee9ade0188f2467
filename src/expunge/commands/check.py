"""Check a recipe without loading weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.checks.inputs import input_checks
from expunge.checks.report import CheckReport, run_checks
from expunge.checks.settings import check_settings
from expunge.config.load import load_recipe
from expunge.config.recipe import Recipe


def check(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> CheckReport:
    """Check settings, model, modules, tokenizer, data and retain models of a recipe without loading weights.

    Local rows are really read and encoded, and local weight files opened as far as their headers. Of what
    lies on the hub only the model's config is asked for; what cannot be reached is listed as not checked.

    Args:
        recipe: A recipe, the name of a packaged one, or the path of a YAML file.
        overrides: Settings as 'key.path=value', on top of a named recipe or file.

    Raises:
        ConfigError: The recipe cannot be read at all: unknown keys, wrong types, broken rules (all listed).
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    items = [*check_settings(recipe).items, *run_checks(input_checks(recipe))]
    return CheckReport(recipe=recipe.name, items=items)
