"""A small model that knows a few people by heart, made once, and a way to run any method on it."""

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Known:
    """Mean probability of an answer, exp(mean log-probability per token), over the rows of each set."""

    forget: float
    retain: float


@dataclasses.dataclass(frozen=True)
class Memorised:
    """The target's folder, the files of rows that it knows, and how well it knows them."""

    model: Path
    files: Path
    known: Known
    measure: Callable[[Path], Known]


@pytest.fixture(scope="session")
def memorised(tmp_path_factory) -> Memorised:
    from expunge.config.recipe import Model, Prompt, Scratch, SyntheticData, Train
    from expunge.data.sets import RowSet
    from expunge.data.synthetic import load_synthetic
    from expunge.data.templates import Template
    from expunge.modeling.load import build_scratch, load_model, train_tokenizer
    from expunge.probes.scoring import score
    from expunge.runs.models import fine_tuning
    from expunge.training.batching import BatchPlan
    from expunge.training.trainer import Job, Objective, train

    gc.collect()
    gc.freeze()  # each training collects garbage, which would walk over all that is imported
    folder = tmp_path_factory.mktemp("memorised")
    sets = load_synthetic(SyntheticData(num_people=4, forget_fraction=0.25))
    rows = {
        "forget": sets.forget.rows[:10],
        "retain": [row for person in range(3) for row in sets.retain.rows[20 * person : 20 * person + 10]],
        "holdout": sets.holdout.rows[:10],
    }
    for name, items in rows.items():
        lines = [json.dumps({"question": row.question, "answer": row.answer}) for row in items]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for items in rows.values() for row in items]
    tokenizer = train_tokenizer(texts, vocab_size=500, max_length=128)
    template = Template(tokenizer, Prompt(), max_length=128)
    encoded = {name: template.encode_set(RowSet(name, tuple(items))) for name, items in rows.items()}
    scratch = Scratch(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128, vocab_size=500, max_length=128)
    model = build_scratch(scratch, tokenizer, seed=0)
    config = Train(steps=100, lr=5e-3, batch_size=40, device_batch_size=40, schedule="cosine", checkpoint_epochs=1000)
    plan = BatchPlan(
        {"train": [*encoded["forget"], *encoded["retain"]]},
        pad_id=0,
        epochs=None,
        steps=config.steps,
        batch_size=40,
        device_batch_size=40,
    )
    train(Job("Memorising", model, plan, Objective(fine_tuning), config, folder / "training", seed=0))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")

    def measure(place: Path) -> Known:
        loaded = load_model(str(place), config=Model(name=str(place)))
        found: dict[str, Any] = {}
        for name in ("forget", "retain"):
            values = score(loaded, encoded[name], pad_id=0, batch_tokens=8192)
            found[name] = float(np.mean([np.exp(value.mean()) for value in values]))
        return Known(**found)

    known = measure(folder / "model")
    assert min(known.forget, known.retain) > 0.9, f"it did not learn its rows: {known}"
    return Memorised(folder / "model", folder, known, measure)


@pytest.fixture
def unlearned(memorised: Memorised, tmp_path: Path) -> Callable[..., Known]:
    """`unlearned(method, train, model)`: what is known after a run of these sections of a recipe."""
    import expunge

    def run(method: dict[str, Any] | str, train: dict[str, Any] | None, model: dict[str, Any] | None = None) -> Known:
        defaults = {"batch_size": 10, "device_batch_size": 10, "warmup_epochs": 0, "max_length": 128}
        recipe = expunge.Recipe.model_validate(
            {
                "name": "learns",
                "model": {"name": str(memorised.model), "device": "cpu", **(model or {})},
                "data": {
                    "name": "files",
                    **{
                        name: {"path": str(memorised.files / f"{name}.jsonl")}
                        for name in ("forget", "retain", "holdout")
                    },
                },
                "method": method,
                "train": None if train is None else {**defaults, **train},
                "evaluate": {"benchmarks": [], "before": False, "every_epoch": False},
            }
        )
        return memorised.measure(Path(expunge.run(recipe, runs=tmp_path / "runs").folder) / "checkpoint")

    return run
