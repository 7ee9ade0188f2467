"""Compare two methods at the same floor of utility: the same rule selects the epoch of each."""

from __future__ import annotations

from pathlib import Path

import yaml
from tiny import RECIPE

import expunge

FOLDER = Path("example-comparison")
METHODS = ("npo", "graddiff")
RULE = "max forget_quality subject to model_utility >= 0.3"


def main() -> None:
    """Run each method, print both, and write one page with both."""
    FOLDER.mkdir(exist_ok=True)
    folders = []
    for method in METHODS:
        evaluate = {**RECIPE["evaluate"], "select": RULE}
        path = FOLDER / f"{method}.yaml"
        path.write_text(
            yaml.safe_dump({**RECIPE, "name": method, "method": method, "evaluate": evaluate}), encoding="utf-8"
        )
        summary = expunge.run(path, runs=FOLDER / "runs")
        folders.append(Path(summary.folder))
        for name, value in summary.headlines["unlearned"].items():
            print(f"{method}: {name} {value.point} [{value.low}, {value.high}]")
    print(f"Comparison: {expunge.write_report(folders, FOLDER / 'comparison.html')}")


if __name__ == "__main__":
    main()
