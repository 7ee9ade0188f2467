"""The smallest sweep that is a real one: a model of one layer, three steps per trial."""

from pathlib import Path
from typing import Any

import yaml

TRAINING = {"steps": 4, "lr": 5e-3, "batch_size": 16, "device_batch_size": 16, "max_length": 96}
SMALL = {
    "model.scratch": {
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 500,
        "max_length": 96,
    },
    "model.device": "cpu",
    "data": {"name": "synthetic", "num_people": 4, "forget_fraction": 0.5},
    "target": TRAINING,
    "retain_model": TRAINING,
    "train": {"epochs": 3, "lr": 1e-3, "warmup_epochs": 0, "batch_size": 40, "device_batch_size": 40, "max_length": 96},
    "evaluate": {"benchmarks": [{"name": "tofu", "generate": False, "ds_size": 24}], "bootstrap": 0},
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """A sweep file; None takes a key out."""
    data = {
        "name": "tiny",
        "recipe": "quickstart",
        "set": SMALL,
        "over": {"train.lr": [1e-4, 1e-3, 1e-2], "method.beta": [0.5]},
        "objectives": {"forget_quality": "up"},
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}, sort_keys=False))
    return path
