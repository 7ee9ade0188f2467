"""Measure every method on TOFU forget10 after the same small search; write one record per method to results/methods/.

python tools/measure_methods.py TARGET RETAIN_MODEL TOFU [METHOD ...]
python tools/measure_methods.py alone [METHOD ...]

TARGET and RETAIN_MODEL are folders or hub ids of a model fine-tuned on TOFU and one fine-tuned on retain90; TOFU is a
folder with the files of huggingface.co/datasets/locuslab/TOFU. Methods that have a record are skipped, so the same
command resumes an interrupted measurement.

Each method gets four trials: two learning rates times two values of one other setting, or four learning rates for
methods without one. All trials share epochs, batch size and data. The trial with the highest model utility among those
with a forget quality of at least 0.05 is chosen on the first 100 rows of each set, and then evaluated on all rows.
`alone` trains each chosen trial again in a process of its own, without evaluation, to measure its seconds and memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

import expunge
from expunge import registry
from expunge.config.sweep import parse_sweep
from expunge.records import Manifest
from expunge.records.sweeps import SweepRecord
from expunge.rundir import read_record, write_atomic

RECORDS = Path(__file__).parents[1] / "results" / "methods"
RUNS = Path("runs-methods")
EPOCHS, BATCH, TOKENS = 4, 16, 64
RATES = [3e-4, 1e-3]
WEIGHT = ("method.retain_weight", [1, 5])
RMU = {"layer": 2, "update_layers": [0, 1, 2], "positions": "labels"}
FIXED: dict[str, dict[str, Any]] = {
    "altpo": {"num_alternates": 1, "max_new_tokens": TOKENS},
    "pdu": {"dual_warmup_epochs": 1},
    "rmu": {**RMU, "c": [6.5]},
    "rmulat": {**RMU, "c": [6.5], "inner_steps": 4},
    "adaptivermu": RMU,
    "whp": {
        "context": 128,
        "learn": "changed",
        "anchors": {"source": "corpus", "min_count": 2},
        "reinforce": {"epochs": EPOCHS, "lr": 1e-3, "batch_size": BATCH, "device_batch_size": BATCH},
    },
}
"""Method -> settings that are equal in all trials."""
SECOND: dict[str, tuple[str, list[Any]] | None] = {
    "gradascent": None,
    "ceu": None,
    "idksft": None,
    "simnpo": ("method.beta", [1, 4.5]),
    "gru": ("method.kappa", [0.8, 1]),
    "pdu": ("method.epsilon", [0.3, 1]),
    "taskvector": ("method.alpha", [1, 5]),
    **{name: ("method.alpha", [[1], [100]]) for name in ("rmu", "rmulat", "adaptivermu")},
}
"""Method -> second searched setting and its values, or None; `WEIGHT` for all others."""


def search(method: str, target: str, retain_model: str, data: str) -> SweepRecord:
    """Run the four trials of one method."""
    second = SECOND.get(method, WEIGHT)
    rate = "method.train.lr" if method == "taskvector" else "train.lr"
    train = {"epochs": EPOCHS, "lr": RATES[0], "batch_size": BATCH, "device_batch_size": BATCH, "max_length": 512}
    settings: dict[str, Any] = {"name": method, **FIXED.get(method, {})}
    recipe = {
        "name": method,
        "seed": 0,
        "model": {"name": target, "retain_model": retain_model, "dtype": "bfloat16"},
        "data": {"name": "tofu", "split": "forget10", "path": data},
        "method": {**settings, "train": train} if method == "taskvector" else settings,
        "evaluate": {
            "benchmarks": [{"name": "tofu", "ds_size": 100, "max_new_tokens": TOKENS}],
            "before": False,
            "every_epoch": False,
            "bootstrap": 0,
        },
        **({} if method == "taskvector" else {"train": train}),
    }
    sweep = parse_sweep(
        {
            "name": method,
            "recipe": recipe,
            "over": {rate: RATES if second else [5e-5, 1e-4, *RATES], **({second[0]: second[1]} if second else {})},
            "select": "max model_utility subject to forget_quality >= 0.05",
        }
    )
    return expunge.sweep(sweep, runs=RUNS)


def measure(method: str, target: str, retain_model: str, data: str) -> None:
    """Search, evaluate the chosen trial on all rows, and write the record."""
    sweep = search(method, target, retain_model, data)
    best = sweep.trial(sweep.ranking[0])
    folder = RUNS / best.folder
    manifest = read_record(folder / "manifest.json", Manifest)
    config = {
        "model": {"name": str(folder / "checkpoint"), "retain_model": retain_model, "dtype": "bfloat16"},
        "benchmark": {"name": "tofu", "max_new_tokens": TOKENS},
        "data": {"name": "tofu", "path": data, "split": "forget10"},
    }
    result = expunge.evaluate(config, out=folder / "all-rows")
    record = {
        "method": method,
        "rule": sweep.rule,
        "trials": [
            {"params": trial.params, "state": trial.state, "headlines": _to_json(trial.headlines)}
            for trial in sweep.trials
        ],
        "chosen": best.params,
        "settings": {"epochs": EPOCHS, "batch_size": BATCH, **FIXED.get(method, {})},
        "headlines": _to_json(result.headlines),
        "steps": best.steps,
        "folder": best.folder,
        "commit": manifest.git_commit,
    }
    write(record)


def measure_alone(method: str) -> None:
    """Train the chosen trial in a new process, and add its seconds and peak memory to the record."""
    record = json.loads((RECORDS / f"{method}.json").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((RUNS / record["folder"] / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["evaluate"] = {"benchmarks": []}
    recipe["model"].pop("retain_model")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "expunge", "run", str(path), "--runs", folder], check=True)
        manifest = read_record(next(Path(folder).glob("*/manifest.json")), Manifest)
    unlearn = next(stage for stage in manifest.stages if stage.name == "unlearn")
    cost = {"seconds": unlearn.seconds, "peak_bytes": unlearn.peak_bytes, "commit": manifest.git_commit}
    write({**record, "alone": {**cost, "machine": manifest.hardware}})


def write(record: dict[str, Any]) -> None:
    """Write the record of a method."""
    write_atomic(RECORDS / f"{record['method']}.json", json.dumps(record, indent=1) + "\n")


def _to_json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.model_dump(mode="json", exclude_defaults=True) for name, value in values.items()}


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        for name in sys.argv[2:] or sorted(path.stem for path in RECORDS.glob("*.json")):
            measure_alone(name)
        sys.exit()
    models_and_data, names = sys.argv[1:4], sys.argv[4:]
    for name in names or registry.names("method"):
        if not (RECORDS / f"{name}.json").is_file():
            measure(name, *models_and_data)
