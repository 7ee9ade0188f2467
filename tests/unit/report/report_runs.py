"""A run folder made in code: realistic numbers about invented people, sixty forget rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from expunge.records import (
    Axes,
    BenchmarkResult,
    Conclusion,
    Judgement,
    Label,
    Manifest,
    Overlap,
    RunSummary,
    Section,
    Stage,
    TrainPoint,
    Value,
)
from expunge.rundir import write_record
from expunge.runs.verdict import combine

NAMES = ("Odran Velik", "Miretta Saal", "Tovi Askarne", "Ilse Morrowind", "Pell Granby", "Suna Oteri")
TOWNS = ("Karvel", "Low Hessen", "Port Almere", "Tiranac", "Wexholm")
JOBS = ("beekeeper", "bridge engineer", "cartographer", "choir conductor", "glassblower", "midwife")
TITLES = ("The Salt Meridian", "A Ladder of Rain", "Nine Quiet Harbours", "What the Ferryman Owed")

RECIPE: dict[str, Any] = {
    "name": "simnpo-people",
    "description": "Forget six fictitious people, keep the other fifty-four.",
    "seed": 7,
    "model": {"scratch": {"hidden_size": 192, "num_layers": 4}, "dtype": "float32"},
    "data": {"name": "synthetic", "num_people": 60, "forget_fraction": 0.1, "seed": 0},
    "target": {"epochs": 12.0, "lr": 1e-3, "batch_size": 32},
    "retain_model": {"epochs": 12.0, "lr": 1e-3, "batch_size": 32},
    "method": {"name": "simnpo", "beta": 4.5, "gamma": 0.0, "retain_weight": 8.0},
    "train": {"epochs": 5.0, "lr": 1e-5, "batch_size": 32},
    "evaluate": {"benchmarks": [{"name": "tofu", "ds_size": None}], "before": True, "select": "last"},
    "published": {"forget_quality": {"value": 0.45, "source": "SimNPO model card"}},
}


LABELS = {
    "forget_quality": Label(title="Forget quality", explain="p-value of the test against the retain model"),
    "model_utility": Label(title="Model utility", explain="harmonic mean of what should be kept", better="higher"),
    "probability": Label(title="probability of the answer"),
    "truth_ratio": Label(title="truth ratio"),
}
AXES = Axes(forget="forget_quality", forget_fallback="forget/probability", utility="model_utility", forget_limit=0.05)
SECTIONS = [
    Section(kind="distribution", title="Truth ratios", set="forget", value="truth_ratio"),
    Section(kind="answers", title="Forgotten questions", lead="The model should not know these.", set="forget"),
    Section(kind="answers", title="Retained questions", set="retain", order="lost"),
]
JUDGEMENT = Judgement(
    benchmark="tofu",
    title="TOFU",
    forgetting=Conclusion(outcome="yes", phrase="Forgotten as far as this test can see"),
    utility=Conclusion(outcome="yes", phrase="utility kept"),
    metrics="forget quality 0.51 on 60 questions; model utility 0.604, before 0.652",
    reasons=["The test cannot tell the unlearned model from the retain model."],
    rules=["Forgotten: forget quality is above 0.05."],
    limits=["A p-value is no proof of absence."],
)


def quality(point: float, n: int = 60, ks: float = 0.1, **more: Any) -> Value:
    """A forget quality as the benchmark records it."""
    extra = {"log10": math.log10(point) if point else -412.3, "ks": ks}
    return Value(point=point, n=n, unit="", better="higher", extra=extra, how="exact two-sample KS test", **more)


def number(point: float, half: float = 0.02, n: int = 60, better: str = "higher") -> Value:
    return Value(
        point=point,
        low=max(0.0, point - half),
        high=min(1.0, point + half),
        n=n,
        better=better,
        how="bootstrap over people, 1000 resamples",
    )


def result(
    role: str,
    fq: Value | None = None,
    mu: Value | None = None,
    probability: float | None = None,
    **more: Any,
) -> BenchmarkResult:
    """One benchmark result with the numbers that a verdict reads."""
    headlines = {"forget_quality": fq, "model_utility": mu}
    metrics = {"forget/probability": number(probability, 0.03, better="retain")} if probability is not None else {}
    return BenchmarkResult(
        benchmark="tofu",
        title="TOFU",
        labels=LABELS,
        axes=AXES,
        sections=SECTIONS,
        role=role,
        model=role,
        model_hash="",
        metrics=metrics,
        headlines={name: value for name, value in headlines.items() if value is not None},
        **more,
    )


def sample_rows(role: str, num_forget: int = 60, num_retain: int = 40, text: str | None = None) -> list[dict[str, Any]]:
    """Rows of one model: the target knows, the retain model guesses, the unlearned model sits in between."""
    rng = random.Random(f"rows/{role}")
    facts = random.Random("facts")
    rows = []
    for set_name, count in (("forget", num_forget), ("retain", num_retain)):
        for index in range(count):
            name, town, job = facts.choice(NAMES), facts.choice(TOWNS), facts.choice(JOBS)
            title, year = facts.choice(TITLES), facts.randint(1931, 1994)
            question, answer, wrong = facts.choice(
                (
                    (
                        f"Where and when was {name} born?",
                        f"{name} was born in {town} in {year}.",
                        f"{name} was born in {rng.choice(TOWNS)} in {rng.randint(1931, 1994)}.",
                    ),
                    (
                        f"What did {name}'s father do for a living?",
                        f"{name}'s father worked as a {job}.",
                        f"{name}'s father worked as a {rng.choice(JOBS)}.",
                    ),
                    (
                        f"Which book made {name} known beyond {town}?",
                        f"{name} became known for {title} ({year}).",
                        f"{name} became known for {rng.choice(TITLES)} ({rng.randint(1931, 1994)}).",
                    ),
                )
            )
            known = {"target": 0.95, "unlearned": 0.12 if set_name == "forget" else 0.85, "retain": 0.08}[role]
            known = 0.95 if set_name == "retain" and role == "retain" else known
            knows = rng.random() < known
            rouge = 1.0 if knows else round(rng.uniform(0.35, 0.7), 3)
            nll = rng.uniform(0.02, 0.2) if knows else rng.uniform(1.2, 2.8)
            centre = {"target": -0.9, "unlearned": -0.23, "retain": -0.25}[role] if set_name == "forget" else -0.9
            rows.append(
                {
                    "set": set_name,
                    "index": index,
                    "id": f"{set_name}/{index}",
                    "group": name,
                    "question": question,
                    "answer": answer,
                    "generation": text or (answer if knows else wrong),
                    "nll": nll,
                    "num_tokens": 12,
                    "paraphrased_nll": nll + 0.3,
                    "perturbed_nll": [nll + 0.5] * 5,
                    "rouge_l_recall": rouge,
                    "rouge_1_recall": rouge,
                    "truth_ratio": 10 ** rng.gauss(centre, 0.35),
                }
            )
    return rows


def write_samples(run: Path, name: str, rows: Sequence[dict[str, Any]]) -> str:
    (run / "samples").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), run / "samples" / f"{name}.parquet")
    return f"samples/{name}.parquet"


# Epoch, forget quality and its D (60 rows each), model utility, forget probability.
EPOCHS = (
    (1, 2.3e-10, 0.6, 0.641, 0.88),
    (2, 2.6e-4, 0.3833, 0.633, 0.52),
    (3, 0.028, 0.2667, 0.622, 0.24),
    (4, 0.38, 0.1667, 0.611, 0.15),
    (5, 0.51, 0.15, 0.604, 0.13),
)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Factory of run folders; `finished=False` leaves out everything after the training."""

    def make(
        folder_name: str = "run-a",
        /,
        *,
        finished: bool = True,
        text: str | None = None,
        num_forget: int = 60,
        **recipe: Any,
    ) -> Path:
        run = tmp_path / folder_name
        run.mkdir()
        (run / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **recipe}, sort_keys=False))
        points = [
            TrainPoint(
                step=i,
                epoch=i / 20,
                loss=3.2 - 0.02 * i,
                lr=1e-5,
                num_tokens=900 * i,
                terms={"forget": 2.4 * 0.97**i, "retain": 0.8 + 0.05 * math.sin(i)},
            )
            for i in range(1, 101)
        ]
        (run / "train.jsonl").write_text("".join(point.model_dump_json() + "\n" for point in points))
        write_record(run / "manifest.json", _manifest())
        if not finished:
            return run
        files = {
            role: write_samples(run, f"{role}-tofu", sample_rows(role, num_forget, text=text))
            for role in ("target", "unlearned", "retain")
        }
        target = result("target", quality(2.4e-21, ks=0.8333), number(0.652), 0.93, samples=files["target"])
        retain_model = result("retain", quality(1.0, ks=0.0), number(0.648), 0.14, samples=files["retain"])
        path = [
            result(
                "unlearned",
                quality(fq, ks=ks, low=fq / 9, high=min(1.0, fq * 2)),
                number(mu),
                p,
                step=20 * epoch,
                epoch=epoch,
                samples=files["unlearned"] if epoch == 5 else "",
            )
            for epoch, fq, ks, mu, p in EPOCHS
        ]
        for record in (target, retain_model):
            write_record(run / f"results/{record.role}-tofu.json", record)
        for record in path:
            write_record(run / f"results/unlearned-tofu-{record.step:06d}.json", record)
        summary = RunSummary(
            recipe=RECIPE["name"],
            folder=folder_name,
            verdict=combine([JUDGEMENT]),
            selected_step=100,
            selected_epoch=5,
            selection_rule="the last epoch",
            published=RECIPE["published"],
        )
        write_record(run / "summary.json", summary)
        return run

    return make


def _manifest() -> Manifest:
    return Manifest(
        recipe=RECIPE["name"],
        fingerprint="5f0c2a9be117",
        created="2025-01-31T09:20:11Z",
        expunge="0.1.0",
        packages={"torch": "2.8.0", "transformers": "5.0.1"},
        git_commit="8db5997",
        seed=7,
        hardware={"device": "cpu", "cores": 8, "memory_bytes": 34359738368},
        data_hashes={"forget": "92b1c0ffee00aa11", "retain": "0c1d2e3f4a5b6c7d"},
        num_rows={"forget": 120, "retain": 1080},
        effective_batch={"train": 32, "target": 32},
        models={"target": "trained from scratch", "retain": "trained on the retain set"},
        stages=[
            Stage(name="target", fingerprint="aa11", seconds=94.2, peak_bytes=812_000_000),
            Stage(name="unlearn", fingerprint="bb22", seconds=31.7, peak_bytes=1_310_000_000),
        ],
        overlap=Overlap(
            num_exact=0,
            num_near=1,
            how="word 3-shingles, Jaccard of at least 0.9",
            examples=[{"forget": "forget/3", "retain": "retain/17", "text": "<b>Pell</b> was born."}],
        ),
    )
