"""Read a finished run as data: headlines with intervals, and the rows with the largest remaining probability."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import yaml
from tiny import RECIPE

import expunge

FOLDER = Path("example-records")


def main() -> None:
    """Run once (a repeated call reads the finished run), then print what its files hold."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "name": "records", "method": "npo"}), encoding="utf-8")
    summary = expunge.run(path, runs=FOLDER / "runs")
    for role, headlines in summary.headlines.items():
        for name, value in headlines.items():
            print(
                f"{role}: {name} = {value.point}" if value.point is not None else f"{role}: {name} needs {value.needs}"
            )
    file = max((Path(summary.folder) / "samples").glob("unlearned-*.parquet"), key=lambda path: path.stat().st_mtime)
    rows = [row for row in pq.read_table(file).to_pylist() if row["set"] == "forget"]
    for row in sorted(rows, key=lambda row: row["nll"])[:3]:
        print(f"{row['question']} -> {row['answer']} (nll {row['nll']:.2f})")


if __name__ == "__main__":
    main()
