"""Estimate memory and time of a recipe's trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.checks.settings import check_settings
from expunge.config.load import load_recipe
from expunge.config.recipe import Recipe
from expunge.planning.gpus import USABLE
from expunge.planning.planner import Planner, PlanReport
from expunge.planning.throughput import UTILISATION


def plan(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> PlanReport:
    """Say what a recipe's trainings take, on which GPUs they fit, and which setting to change where they do not.

    Reads local data and the model's config, which is known here for packaged recipes; no weights.

    Args:
        recipe: A recipe, the name of a packaged one, or the path of a YAML file.
        overrides: Settings as 'key.path=value', on top of a named recipe or file.

    Raises:
        UserError: The recipe, its local data or its model have to be put right first.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    check_settings(recipe, here=False).raise_failed()
    planner = Planner(recipe)
    return PlanReport(
        recipe=recipe.name,
        trainings={section: planner.cost(section) for section in planner.sections},
        assumptions=[
            planner.rows.source,
            f"a training fits where it takes at most {USABLE:.0%} of a card's memory",
            f"seconds at {UTILISATION:.0%} of the card's dense bfloat16 peak, without what GPUs send to each other; "
            "small models and short rows are slower",
            "evaluation, and what a method prepares before it trains, are not in it",
            "on a CPU glibc's malloc can keep as much again in freed blocks, unless the environment has "
            "MALLOC_MMAP_THRESHOLD_=131072",
        ],
    )
