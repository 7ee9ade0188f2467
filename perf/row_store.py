"""Time RMU's first and later passes with and without cached hidden states.

python -m perf.row_store [--methods rmu-4,rmu-2] [--passes 4] [--quick]

Both trainings run in one process and alternate step by step on the same rows; ratios are of medians. In the case 'all'
there are as many retain rows as forget rows, so all rows are repeated in each pass. In the case 'forget' every retain
row is new, as in TOFU's forget10, where retain rows are repeated only after nine passes.
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

from expunge.config.recipe import Train
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
    """One method with one choice of repeated rows."""

    method: str
    repeated: str
    """Rows that are repeated in each pass: 'all', or those of 'forget' only."""
    first_ratio: float
    """Median seconds per step of the first pass, without the cache over with it."""
    later_ratio: float
    """Likewise for later passes."""
    cached_seconds: list[float]
    """Seconds of every step with the cache."""
    computed_seconds: list[float]
    """Seconds of every step without it."""
    cached_bytes: int
    """Maximum size of the cache."""


class StoreSpeed(Record):
    """Record of this benchmark."""

    created: str
    shape: dict[str, int]
    batch_size: int
    steps_per_pass: int
    machine: dict[str, Any]
    methods: list[Passes]


class Training:
    """One of the two trainings, run one step per call.

    Args:
        method: RMU with or without a cache.
        shape: Sizes of the model.
        plan: Micro-batches.
    """

    def __init__(self, method: SteeringMethod, shape: Shape, plan: BatchPlan) -> None:
        self.model, self.plan = model(shape), plan
        trainable = set(method.trainable(self.model) or ())
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trainable)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LR, fused=True)
        self.objective: Any = method.objective(plan.steps, 1.0)
        self.objective.start(
            Start(
                self.model,
                plan.topics,
                0,
                lambda name, step: TensorBatch.of(plan.effective_batch(name, step), "cpu"),
                plan.visits,
            )
        )

    def step(self, index: int) -> float:
        """Run one step and return its seconds."""
        start = time.perf_counter()
        inputs = self.plan[index]
        batches = {name: TensorBatch.of(batch, "cpu") for name, batch in inputs["batches"].items()}
        step = Step(batches, inputs["counts"], topic=inputs["topic"], packed=True, row_ids=inputs["rows"])
        step.bind(self.model)
        self.objective(step).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def measure(name: str, repeated: str, shape: Shape, rows: Any, batch_size: int, steps: int, passes: int) -> Passes:
    """Time alternating steps with and without the cache; the one that goes first alternates, too."""
    method = METHODS[name]
    assert isinstance(method, SteeringMethod)
    num_rows = batch_size * steps
    num_retain = num_rows if repeated == "all" else num_rows * passes
    sets = {"forget": rows["forget"][:num_rows], "retain": rows["retain"][:num_retain]}
    train = Train(epochs=passes, lr=LR, batch_size=batch_size, device_batch_size=batch_size)
    plan = BatchPlan.of(train, sets, None, pad_id=PAD, world_size=1, seed=0)
    cached = Training(method, shape, plan)
    computed = Training(method.model_copy(update={"store_gib": 0.0}), shape, plan)
    seconds: dict[Training, list[float]] = {cached: [], computed: []}
    capacity = least_room = method.store_gib * GIB
    for index in range(plan.steps):
        for training in (cached, computed) if index % 2 else (computed, cached):
            seconds[training].append(training.step(index))
        if cached.objective.steering.store is not None:
            least_room = min(least_room, cached.objective.steering.store.room)

    def ratio(window: slice) -> float:
        return statistics.median(seconds[computed][window]) / statistics.median(seconds[cached][window])

    return Passes(
        method=name,
        repeated=repeated,
        # Without the very first step, which is warm-up.
        first_ratio=ratio(slice(1, steps)),
        later_ratio=ratio(slice(steps, None)),
        cached_seconds=seconds[cached],
        computed_seconds=seconds[computed],
        cached_bytes=int(capacity - least_room),
    )


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default="rmu-4,rmu-2", help="comma-separated names")
    parser.add_argument("--passes", type=int, default=3, help="at least 2")
    parser.add_argument("--steps", type=int, default=5, help="steps per pass")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="smoke test: a tiny model, no record")
    args = parser.parse_args()
    if args.passes < 2:
        parser.error("--passes must be at least 2: the first fills the cache")
    transformers.utils.logging.set_verbosity_error()
    shape = Shape(num_layers=8, hidden_size=64, intermediate_size=128) if args.quick else Shape()
    rows, results = tofu_rows(shape), []
    table = Table("method", "repeated rows", "first pass", "later passes", "MiB cached")
    for name in args.methods.split(","):
        for repeated in ("all", "forget"):
            result = measure(name, repeated, shape, rows, args.batch_size, args.steps, args.passes)
            results.append(result)
            ratios = f"{result.first_ratio:.2f}x", f"{result.later_ratio:.2f}x"
            table.add_row(name, repeated, *ratios, f"{result.cached_bytes / 2**20:.0f}")
    Console(width=120).print(table)
    if not args.quick:
        record = StoreSpeed(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            shape=shape.sizes,
            batch_size=args.batch_size,
            steps_per_pass=args.steps,
            machine=machine(),
            methods=results,
        )
        write_record(RESULTS / "row_store.json", record)


if __name__ == "__main__":
    main()
