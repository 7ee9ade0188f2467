"""Compare the memory that `expunge plan` predicts with the measured peak.

python -m perf.plan [--cases full,rmu]

Each training runs in a process of its own on the CPU: a few steps of a model with random weights, on synthetic rows.
The peak is the maximum resident memory above that after imports and rows. glibc's malloc is configured to return freed
blocks of more than 128 KiB at once; otherwise it keeps them, and the peak reflects fragmentation rather than tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.commands.plan import plan
from expunge.config.load import load_recipe
from expunge.config.recipe import Recipe
from expunge.data.prepare import prepare_sets
from expunge.modeling.adapters import add_lora
from expunge.modeling.load import build_scratch
from expunge.modeling.peak_memory import reset_peak, resident_peak
from expunge.modeling.tokenizers import make_template, tokenizer_of
from expunge.records import Record
from expunge.rundir import write_record
from expunge.training.trainer import train
from perf.measure import Done, machine, make_job

RESULTS = Path(__file__).parents[1] / "results" / "performance"
STEPS = 2


def _shape(layers: int, hidden: int, inner: int, batch: int) -> list[str]:
    scratch = f"{{num_layers: {layers}, hidden_size: {hidden}, num_heads: 8, intermediate_size: {inner}}}"
    return [f"model.scratch={scratch}", f"train.batch_size={batch}", f"train.device_batch_size={batch}"]


CASES = {
    "full": ["method={name: npo}", *_shape(8, 512, 2048, 8)],
    "kl": ["method={name: graddiff, retain: kl}", *_shape(8, 320, 1280, 16)],
    "rmu": [
        "method={name: rmu, layer: 4, update_layers: [2, 3, 4], positions: labels}",
        *_shape(8, 512, 2048, 16),
    ],
    "lora": ["method={name: npo}", "model.lora={rank: 8}", *_shape(8, 512, 2048, 16)],
}
"""Name -> overrides of the recipe quickstart."""


class Compared(Record):
    """Predicted and measured peak of one training."""

    case: str
    overrides: list[str]
    num_parameters: int
    predicted_bytes: int
    measured_bytes: int
    ratio: float
    """Predicted over measured."""


class PlanAccuracy(Record):
    """Record of this benchmark."""

    created: str
    machine: dict[str, Any]
    cases: list[Compared]


def peak(recipe: Recipe) -> int:
    """Return the peak bytes of a few unlearning steps above imports and rows; call it in a fresh process."""
    assert recipe.train is not None
    assert recipe.model.scratch is not None
    sets = prepare_sets(recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizer_of(recipe, sets, Path(folder))
        template = make_template(recipe, tokenizer)
        named = {"forget": sets.forget, "retain": sets.retain}
        rows = {name: template.encode_set(named[name]) for name in recipe.method.needs().sets}  # type: ignore[arg-type]
        count = [0]

        def after() -> None:
            count[0] += 1
            # `after` runs before the optimiser's update, so the last step ends with the next call.
            if count[0] > STEPS:
                raise Done

        reset_peak()
        before = resident_peak()
        model = build_scratch(recipe.model.scratch, tokenizer, recipe.seed)
        if recipe.model.lora is not None:
            model = add_lora(model, recipe.model.lora, recipe.seed)
        job = make_job(recipe.method, model, rows, Path(folder) / "job", recipe.train.batch_size, after)
        with contextlib.suppress(Done):
            train(job)
    return resident_peak() - before


def peak_apart(case: str) -> int:
    """Return `peak` of a case, measured in a new process."""
    result = subprocess.run(
        [sys.executable, "-m", "perf.plan", "--peak", case],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)},
    )
    if result.returncode:
        sys.exit(f"The memory measurement of {case} failed:\n{result.stderr}")
    return int(result.stdout.splitlines()[-1])


def compare(case: str) -> Compared:
    """Predict and measure the peak of a case."""
    estimate = plan("quickstart", CASES[case]).trainings["train"].memory
    measured = peak_apart(case)
    return Compared(
        case=case,
        overrides=CASES[case],
        num_parameters=estimate.num_parameters,
        predicted_bytes=estimate.total_bytes,
        measured_bytes=measured,
        ratio=estimate.total_bytes / measured,
    )


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated names")
    parser.add_argument("--peak", metavar="CASE", help="measure one case in this process and print its bytes")
    args = parser.parse_args()
    if args.peak:
        print(peak(load_recipe("quickstart", CASES[args.peak])))
        return
    names = args.cases.split(",")
    unknown = set(names) - set(CASES)
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    results = []
    for name in names:
        result = compare(name)
        results.append(result)
        predicted, measured = (f"{size / 2**20:.0f} MiB" for size in (result.predicted_bytes, result.measured_bytes))
        print(f"{name}: predicted {predicted}, measured {measured}, ratio {result.ratio:.2f}")
    if set(names) == set(CASES):
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(RESULTS / "plan.json", PlanAccuracy(created=created, machine=machine(), cases=results))


if __name__ == "__main__":
    main()
