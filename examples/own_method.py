"""A method in a file of its own: the recipe names the file, and everything else is as for a packaged method."""

from __future__ import annotations

from pathlib import Path

import yaml
from tiny import RECIPE

import expunge

FOLDER = Path("example-own-method")
METHOD = Path(__file__).parents[1] / "docs" / "examples" / "my_method.py"


def main() -> None:
    """Run the method with one of its settings."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "mine.yaml"
    recipe = {**RECIPE, "name": "own-method", "method": {"name": str(METHOD), "ceiling": 3}}
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    summary = expunge.run(path, runs=FOLDER / "runs")
    print(summary.verdict.sentence)


if __name__ == "__main__":
    main()
