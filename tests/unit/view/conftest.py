"""A folder of runs as the viewer reads it, written without a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from expunge.records import BenchmarkResult, Manifest, RunSummary, Stage, TrainPoint, Value, Verdict
from expunge.rundir import write_record

HOSTILE = "<script>alert(1)</script> \x1b[31mred"


def write_run(root: Path, name: str, *, method: str = "npo", quality: float = 0.5, finished: bool = True) -> Path:
    """Write the records of a small run with two training steps of ten."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = root / name
    (folder / "samples").mkdir(parents=True)
    recipe = {
        "name": name,
        "data": {"name": "tofu", "split": "forget10"},
        "model": {"name": "org/model"},
        "method": {"name": method},
        "train": {"epochs": 5.0, "lr": 1e-5},
        "evaluate": {"benchmarks": [{"name": "tofu"}]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    points = [TrainPoint(step=step, epoch=step / 2, loss=3.0 - step, lr=1e-5, seconds=2.0) for step in (1, 2)]
    (folder / "train.jsonl").write_text("".join(point.model_dump_json() + "\n" for point in points))
    write_record(folder / "stages/prepare.json", Stage(name="prepare", fingerprint="f"))
    headlines = {"forget_quality": Value(point=quality, low=0.1, high=0.9, n=10)}
    result = BenchmarkResult(
        benchmark="tofu",
        title="TOFU",
        role="unlearned",
        model="m",
        model_hash="h",
        step=2,
        epoch=1.0,
        headlines=headlines,
    )
    write_record(folder / "results/unlearned-tofu-000002.json", result)
    rows = {"question": ["Who wrote it?", "Where?"], "generation": [HOSTILE, "In Bern"], "rouge": [0.25, float("nan")]}
    pq.write_table(pa.table(rows), folder / "samples/unlearned-tofu-000002.parquet")
    if finished:
        manifest = Manifest(recipe=name, fingerprint="f", created="2026-01-02T03:04:05+00:00", expunge="0")
        write_record(folder / "manifest.json", manifest)
        verdict = Verdict(forgot=True, kept=False, sentence="Forgotten, utility lost.")
        summary = RunSummary(
            recipe=name,
            folder=str(folder),
            verdict=verdict,
            selected_step=2,
            selected_epoch=1.0,
            selection_rule="last",
            headlines={"unlearned": headlines},
        )
        write_record(folder / "summary.json", summary)
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run into the folder `runs` of the test."""
    return lambda name, **settings: write_run(tmp_path / "runs", name, **settings)


@pytest.fixture
def runs(make_run: Callable[..., Path]) -> Path:
    """A folder with a finished and an unfinished run."""
    make_run("one", method="npo")
    return make_run("two", method="rmu", finished=False).parent
