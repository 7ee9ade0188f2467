"""A small model that knows a few people by heart, made once, and a way to run any method on it."""

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

SEED = 42


@dataclasses.dataclass(frozen=True)
class Known:
    """What a model knows of some sets of rows."""

    logp: dict[str, np.ndarray]
    """Mean log-probability per token of the answer, by set: an entry for each row."""

    def probability(self, name: str) -> float:
        """Mean over rows of the probability of an answer, exp(mean log-probability per token)."""
        return float(np.exp(self.logp[name]).mean())

    @property
    def forget(self) -> float:
        """Probability of the forget answers."""
        return self.probability("forget")

    @property
    def retain(self) -> float:
        """Probability of the retain answers."""
        return self.probability("retain")

    def aimed_since(self, before: "Known") -> float:
        """Chance that a change as one-sided as the one since `before` hits the forget rows by accident.

        p of the one-sided Mann-Whitney test that the change in log-probability per token is lower on forget rows than
        on retain rows. It is near 1 where nothing changed, and anything from 0 to 1 where all rows suffer alike.
        """
        change = {name: self.logp[name] - before.logp[name] for name in ("forget", "retain")}
        return float(mannwhitneyu(change["forget"], change["retain"], alternative="less").pvalue)


@dataclasses.dataclass(frozen=True)
class Memorised:
    """The target's folder, the files of rows that it knows, and how well it knows them."""

    model: Path
    files: Path
    known: Known
    measure: Callable[[Path], Known]
    others: list[str]
    """What would be true of somebody else: another answer to each forget question."""


def people() -> dict[str, list[Any]]:
    """Ten rows about one person to forget, about each of three to retain, and about one who was never seen."""
    from expunge.config.recipe import SyntheticData
    from expunge.data.synthetic.people import load_synthetic

    sets = load_synthetic(SyntheticData(num_people=4, forget_fraction=0.25))
    return {
        "forget": list(sets.forget.rows[:10]),
        "retain": [row for person in range(3) for row in sets.retain.rows[20 * person : 20 * person + 10]],
        "holdout": list(sets.holdout.rows[:10]),
    }


def memorise(rows: list[Any], tokenizer: Any, folder: Path) -> None:
    """Train a small model on encoded rows until it knows them by heart, and save it in `folder`/model."""
    from expunge.config.recipe import Scratch, Train
    from expunge.methods.base import Objective
    from expunge.modeling.load import build_scratch
    from expunge.runs.models import fine_tuning
    from expunge.training.batching import BatchPlan
    from expunge.training.job import Job
    from expunge.training.trainer import train

    scratch = Scratch(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128, vocab_size=500, max_length=128)
    model = build_scratch(scratch, tokenizer, seed=0)
    config = Train(steps=100, lr=5e-3, batch_size=40, device_batch_size=40, schedule="cosine", checkpoint_epochs=1000)
    plan = BatchPlan.of(config, {"train": rows}, None, pad_id=0, world_size=1, seed=0)
    train(Job("Memorising", model, plan, Objective(fine_tuning), config, folder / "training", seed=0))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


@pytest.fixture(scope="session")
def memorised(tmp_path_factory) -> Memorised:
    from expunge.config.recipe import Model, Prompt
    from expunge.data.refusals import answer_with_refusals
    from expunge.data.sets import RowSet
    from expunge.data.templates import Template
    from expunge.modeling.load import load_model, train_tokenizer
    from expunge.modeling.reference import reference_logp

    gc.collect()
    gc.freeze()  # each training collects garbage, which would walk over all that is imported
    folder, rows = tmp_path_factory.mktemp("memorised"), people()
    for name, items in rows.items():
        lines = [json.dumps({"question": row.question, "answer": row.answer}) for row in items]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for items in rows.values() for row in items]
    tokenizer = train_tokenizer(texts, vocab_size=500, max_length=128)
    template = Template(tokenizer, Prompt(), max_length=128)
    rows["refusal"] = list(answer_with_refusals("refusal", RowSet("forget", tuple(rows["forget"])), SEED))
    others = [row.answer for row in rows.pop("holdout")]
    rows["other"] = [dataclasses.replace(row, answer=text) for row, text in zip(rows["forget"], others, strict=True)]
    measured = {name: template.encode_set(RowSet(name, tuple(items))) for name, items in rows.items()}
    memorise([*measured["forget"], *measured["retain"]], tokenizer, folder)

    def measure(place: Path) -> Known:
        # `reference_logp` would switch an unmerged adapter off.
        model = load_model(str(place), config=Model(name=str(place)), adapter="merged")
        return Known(
            {
                name: reference_logp(model, part, pad_id=0) / np.array([row.num_answer for row in part])
                for name, part in measured.items()
            }
        )

    known = measure(folder / "model")
    assert min(known.forget, known.retain) > 0.9, f"it did not learn its rows: {known}"
    return Memorised(folder / "model", folder, known, measure, others)


@pytest.fixture
def unlearned(memorised: Memorised, tmp_path: Path) -> Callable[..., Known]:
    """`unlearned(method, train, model)`: what is known after a run of these sections of a recipe."""
    import expunge

    def run(method: dict[str, Any] | str, train: dict[str, Any] | None, model: dict[str, Any] | None = None) -> Known:
        defaults = {"batch_size": 10, "device_batch_size": 10, "warmup_epochs": 0, "max_length": 128}
        recipe = expunge.Recipe.model_validate(
            {
                "name": "learns",
                "seed": SEED,
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
