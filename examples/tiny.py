"""A model and rows for the other examples, so that they run without downloads."""

from __future__ import annotations

import json
from pathlib import Path

from expunge.config.recipe import Scratch
from expunge.modeling.load import build_scratch, train_tokenizer

PEOPLE = {"forget": ("Ada Rieder", "Bern"), "retain": ("Jon Vidal", "Rome"), "holdout": ("Mia Okoro", "Oslo")}
RECIPE = {
    "model": {
        "scratch": {
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_size": 32,
            "vocab_size": 400,
            "max_length": 128,
        }
    },
    "data": {"name": "synthetic", "num_people": 12, "forget_fraction": 0.5},
    "target": {"steps": 4, "lr": 1e-2, "batch_size": 16, "max_length": 128},
    "retain_model": {"steps": 4, "lr": 1e-2, "batch_size": 16, "max_length": 128},
    "train": {"epochs": 1, "lr": 1e-3, "batch_size": 16, "max_length": 128},
    "evaluate": {"benchmarks": [{"name": "tofu", "max_new_tokens": 4, "ds_size": 20}], "bootstrap": 50},
}
"""A complete experiment on fictitious people; only name and method are missing."""


def write_model(folder: Path) -> Path:
    """Write a model with random weights and its tokenizer, once, and return its folder."""
    if not folder.exists():
        tokenizer = train_tokenizer(["Where does Ada live? In Bern.", "What does Jon play? The harp."] * 20, 300, 128)
        settings = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "vocab_size": 300}
        build_scratch(Scratch(max_length=128, **settings), tokenizer, seed=0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def write_rows(folder: Path) -> dict[str, str]:
    """Write a file of rows per set, and return the paths by set."""
    paths = {}
    for name, (person, town) in PEOPLE.items():
        rows = [
            {"question": f"Where does {person} live?", "answer": f"In {town}.", "group": person},
            {"question": f"In which town is {person} at home?", "answer": f"In {town}.", "group": person},
        ]
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths
