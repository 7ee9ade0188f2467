"""A deletion request: remove one person from your model with a LoRA adapter, and read the verdict."""

from __future__ import annotations

from pathlib import Path

import yaml
from tiny import write_model, write_rows

import expunge

FOLDER = Path("example-request")


def main() -> None:
    """Write the recipe, check it, run it."""
    FOLDER.mkdir(exist_ok=True)
    rows = write_rows(FOLDER)  # your files
    recipe = {
        "name": "request",
        "model": {"name": str(write_model(FOLDER / "model")), "lora": {"rank": 4, "alpha": 8}},  # your model
        "data": {"name": "files", **{name: {"path": path} for name, path in rows.items()}},
        "method": {"name": "npo", "retain_weight": 2},
        "train": {"epochs": 2, "lr": 1e-4, "batch_size": 2, "max_length": 64, "warmup_epochs": 0},
        "evaluate": {"benchmarks": [{"name": "custom", "max_new_tokens": 8}]},
    }
    path = FOLDER / "request.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    summary = expunge.run(path, runs=FOLDER / "runs")
    print(summary.verdict.sentence)
    print(f"Report: {summary.folder}/report.html")


if __name__ == "__main__":
    main()
