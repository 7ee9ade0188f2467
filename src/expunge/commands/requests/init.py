"""Open a ledger of deletion requests."""

from __future__ import annotations

import secrets
from pathlib import Path

from expunge.checks.settings import check_settings
from expunge.commands.requests.hashing import model_file_hashes
from expunge.commands.requests.ledger import Ledger
from expunge.config.recipe import Recipe
from expunge.errors import ConfigError
from expunge.modeling.load import check_model_folder
from expunge.records.requests import Opened, RetrainRule


def init(
    folder: str | Path,
    recipe: Recipe,
    *,
    knows_training_data: bool = True,
    rule: RetrainRule | None = None,
    utility_rows: int = 400,
) -> None:
    """Open a ledger: it keeps a copy of the recipe, and the hash of the first model.

    Args:
        folder: The ledger's folder, which is created.
        recipe: Its model is the first model, its data what that model was trained on.
        knows_training_data: Whether the recipe's sets are all that the model was trained on, so that requests for
            other rows are refused.
        rule: When a retrain is due.
        utility_rows: Largest number of retained rows on which `status` measures utility.

    Raises:
        UserError: The recipe is invalid or cannot be used for requests, or there is a ledger already.
    """
    _check(recipe)
    check_settings(recipe).raise_failed()
    name = str(recipe.model.name)
    check_model_folder(name)
    event = Opened(
        recipe="",  # Known when the file is written.
        model=name,
        model_files=model_file_hashes(Path(name)) if Path(name).is_dir() else {},
        knows_training_data=knows_training_data,
        salt=secrets.token_hex(32),
        rule=rule or RetrainRule(),
        utility_rows=utility_rows,
    )
    Ledger(folder).open(event, recipe)


def _check(recipe: Recipe) -> None:
    """Raise if a recipe cannot be repeated for one request after another.

    Raises:
        ConfigError: All reasons.
    """
    problems = []
    if recipe.target is not None or recipe.model.name is None:
        problems.append(
            "target: requests are unlearned from a trained model; name it as model.name and set target=null"
        )
    # Evaluation sets of a data set do not follow a request's rows; `custom` measures the sets of the run.
    fixed = [b.name for b in recipe.evaluate.benchmarks if b.needs_sets and b.name != "custom" and ".py" not in b.name]
    if fixed:
        problems.append(
            f"evaluate.benchmarks: '{fixed[0]}' measures the sets of a data set, not the rows of a request; "
            "set evaluate.benchmarks=[custom]"
        )
    elif not recipe.evaluate.benchmarks:
        problems.append("evaluate.benchmarks: is empty, so nothing would be measured; set evaluate.benchmarks=[custom]")
    if problems:
        raise ConfigError(problems, source=f"the recipe {recipe.name}, for deletion requests")
