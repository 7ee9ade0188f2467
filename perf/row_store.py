"""Seconds per step of RMU in the first pass and in later ones, with hidden states kept and without.

python -m perf.row_store [--methods rmu-4,rmu-2] [--passes 4] [--quick]

Both trainings are in one process and take their steps by turns on the same rows; the ratio is that of the medians.
'all' has as many retain rows as forget rows, so that all rows come again; in 'forget' each retain row is new, as in
TOFU's forget10, whose retain rows come again after nine passes only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from expunge.methods.base import Start
from expunge.methods.bases.steering import SteeringMethod
from expunge.modeling.batch import TensorBatch
from expunge.modeling.hidden.row_store import GIB
from expunge.modeling.step import Step
from expunge.records import Record
from expunge.rundir import write_record
from expunge.training.batching import BatchPlan
from perf.measure import LR, machine
from perf.model import METHODS, PAD, Shape, model, tofu_rows

RESULTS = Path(__file__).parents[1] / "results" / "performance"


class Passes(Record):
    """One method, with some rows that come again."""

    method: str
    again: str
    """Which rows come again: 'all', or those of 'forget'."""
    first_ratio: float
    """Without the store over with it, median seconds per step of the first pass."""
    later_ratio: float
    """The same for later passes."""
    kept_seconds: list[float]
    """Of every step, with the store."""
    computed_seconds: list[float]
    kept_bytes: int
    """What the store held at its fullest."""


class StoreSpeed(Record):
    """A run of this benchmark."""

    made: str
    shape: dict[str, int]
    batch_size: int
    steps_per_pass: int
    machine: dict[str, Any]
    methods: list[Passes]


class Training:
    """One of the two trainings, a step at a time."""

    def __init__(self, method: SteeringMethod, shape: Shape, plan: BatchPlan) -> None:
        self.model, self.plan = model(shape), plan
        chosen = set(method.trainable(self.model) or ())
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in chosen)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LR, fused=True)
        self.objective: Any = method.objective(plan.steps, 1.0)
        self.objective.start(Start(self.model, plan.topics, 0, self._whole, plan.visits))

    def _whole(self, name: str, step: int) -> TensorBatch:
        return TensorBatch.of(self.plan.whole(name, step), "cpu")

    def step(self, number: int) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        inputs = self.plan[number]
        batches = {name: TensorBatch.of(batch, "cpu") for name, batch in inputs["batches"].items()}
        step = Step(batches, inputs["counts"], topic=inputs["topic"], packed=True, row_ids=inputs["rows"])
        step.bind(self.model)
        self.objective(step).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began


def measure(name: str, again: str, shape: Shape, rows: Any, batch_size: int, steps: int, passes: int) -> Passes:
    """Take the steps of some passes by turns, beginning with either in turn."""
    method = METHODS[name]
    assert isinstance(method, SteeringMethod)
    num = batch_size * steps
    sets = {"forget": rows["forget"][:num], "retain": rows["retain"][: num * (1 if again == "all" else passes)]}
    plan = BatchPlan(sets, pad_id=PAD, epochs=passes, steps=None, batch_size=batch_size, device_batch_size=batch_size)
    kept, computed = (Training(each, shape, plan) for each in (method, method.model_copy(update={"store_gib": 0.0})))
    seconds: dict[Training, list[float]] = {kept: [], computed: []}
    least = room = method.store_gib * GIB
    for number in range(plan.steps):
        for training in (kept, computed) if number % 2 else (computed, kept):
            seconds[training].append(training.step(number))
        if kept.objective.steering.store is not None:
            least = min(least, kept.objective.steering.store.room)

    def ratio(part: slice) -> float:
        return statistics.median(seconds[computed][part]) / statistics.median(seconds[kept][part])

    return Passes(
        method=name,
        again=again,
        # The very first step warms up.
        first_ratio=ratio(slice(1, steps)),
        later_ratio=ratio(slice(steps, None)),
        kept_seconds=seconds[kept],
        computed_seconds=seconds[computed],
        kept_bytes=int(room - least),
    )


def main() -> None:
    """Measure, print and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default="rmu-4,rmu-2", help="names with commas between them")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps in a pass")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run?")
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    shape = Shape(num_layers=8, hidden_size=64, intermediate_size=128) if given.quick else Shape()
    rows, console, found = tofu_rows(shape.vocab_size), Console(width=120), []
    table = Table("method", "rows that come again", "first pass", "later passes", "MiB kept")
    for name in given.methods.split(","):
        for again in ("all", "forget"):
            one = measure(name, again, shape, rows, given.batch_size, given.steps, given.passes)
            found.append(one)
            ratios = f"{one.first_ratio:.2f}x", f"{one.later_ratio:.2f}x"
            table.add_row(name, again, *ratios, f"{one.kept_bytes / 2**20:.0f}")
    console.print(table)
    if not given.quick:
        record = StoreSpeed(
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            shape=vars(shape),
            batch_size=given.batch_size,
            steps_per_pass=given.steps,
            machine=machine(),
            methods=found,
        )
        write_record(RESULTS / "row_store.json", record)


if __name__ == "__main__":
    main()
