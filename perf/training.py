"""Seconds per step and peak memory of each method, ours against the plain way; DPO against trl's trainer.

python -m perf.training [--methods npo,rmu-4,dpo] [--pairs 7] [--quick] [--no-memory]

Steps of both are taken by turns in one process, so that whatever else the machine does hits both; the ratio is that
of the medians. Memory is the peak resident size above imports and rows, the median of three processes. `dpo` is
measured against trl's DPOTrainer where trl is installed, each in a process that waits for its turn.
"""

from __future__ import annotations

import argparse
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.table import Table

from expunge.records import Record
from expunge.rundir import read_record, write_record
from perf.measure import alternate, machine, peak_apart
from perf.model import METHODS, Shape, rows_of, tofu_rows
from perf.trl import TrlSpeed, measure_trl, missing

RESULTS = Path(__file__).parents[1] / "results" / "performance"
NAMES = (*METHODS, "dpo")
MEMORY_RUNS = 3


class Goal(Record):
    """What a method must reach."""

    ratio: float
    memory: float


class Measured(Record):
    """One method, both ways."""

    method: str
    settings: dict[str, Any]
    goal: Goal
    ours_seconds: float
    """Median seconds per step."""
    plain_seconds: float
    ratio: float
    """Plain median over ours."""
    preparation_seconds: float
    """From nothing to the first gradient, once per training: model, references, one forward and backward pass."""
    ratio_with_preparation: float
    """The same with the preparation spread over the steps of a published training."""
    all_ours_seconds: list[float]
    all_plain_seconds: list[float]
    tokens_per_second: float
    """Real tokens, ours."""
    plain_tokens_per_second: float
    padding: float
    """Share of padding among the tokens that the model was run on, ours."""
    plain_padding: float
    ours_bytes: int | None
    """Peak resident memory above imports."""
    plain_bytes: int | None
    memory_ratio: float | None
    memory_runs: int = 1
    """Processes whose median the bytes are: glibc's heap comes out differently each time."""


class TrainingSpeed(Record):
    """A run of this benchmark."""

    made: str
    shape: dict[str, int]
    batch_size: int
    pairs: int
    machine: dict[str, Any]
    methods: list[Measured]


GOALS = {
    **{name: Goal(ratio=1.25, memory=0.9) for name in ("graddiff", "simnpo", "wga", "satimp")},
    **{name: Goal(ratio=1.7, memory=0.75) for name in ("npo", "idkdpo", "graddiff-kl")},
    "undial": Goal(ratio=2.0, memory=0.75),
    "rmu-4": Goal(ratio=4.0, memory=0.5),
    "rmu-2": Goal(ratio=3.0, memory=0.5),
}


def measure(name: str, shape: Shape, batch_size: int, pairs: int, rows: Any, memory: bool) -> Measured:
    """Time one method by turns, and its memory in two processes."""
    method = METHODS[name]
    found = alternate(method, shape, rows_of(method, rows), batch_size, pairs)
    ours, plain = (statistics.median(found[f"{side}_seconds"]) for side in ("ours", "plain"))
    sizes: dict[str, int | None] = {"ours": None, "plain": None}
    if memory:
        sizes = {
            side: round(statistics.median(peak_apart(side, name, shape, batch_size, 5) for _ in range(MEMORY_RUNS)))
            for side in sizes
        }
    both = sizes["ours"] is not None and sizes["plain"] is not None
    return Measured(
        method=name,
        settings=method.spec(),
        goal=GOALS[name],
        ours_seconds=ours,
        plain_seconds=plain,
        ratio=plain / ours,
        preparation_seconds=found["preparation_seconds"],
        ratio_with_preparation=plain / (ours + found["preparation_seconds"] / found["steps"]),
        all_ours_seconds=found["ours_seconds"],
        all_plain_seconds=found["plain_seconds"],
        tokens_per_second=found["tokens_per_step"] / ours,
        plain_tokens_per_second=found["tokens_per_step"] / plain,
        padding=found["ours_padding"],
        plain_padding=found["plain_padding"],
        ours_bytes=sizes["ours"],
        plain_bytes=sizes["plain"],
        memory_ratio=sizes["ours"] / sizes["plain"] if both else None,  # type: ignore[operator]
        memory_runs=MEMORY_RUNS,
    )


def table(record: TrainingSpeed) -> Table:
    """The record as a person reads it."""
    made = Table(
        "method", "plain s", "ours s", "ratio", "with prep.", "goal", "memory", "goal", "MiB", "plain", "padding"
    )
    for item in record.methods:
        sizes = [f"{size / 2**20:.0f}" if size else "-" for size in (item.ours_bytes, item.plain_bytes)]
        made.add_row(
            item.method,
            f"{item.plain_seconds:.3f}",
            f"{item.ours_seconds:.3f}",
            f"{item.ratio:.2f}",
            f"{item.ratio_with_preparation:.2f}",
            f"{item.goal.ratio}",
            f"{item.memory_ratio:.2f}" if item.memory_ratio else "-",
            f"{item.goal.memory}",
            *sizes,
            f"{item.padding:.1%}",
        )
    return made


def trl_table(record: TrlSpeed) -> Table:
    """The comparison with trl as a person reads it."""
    made = Table("DPO", "s", "ratio", "of processor s", "with prep.", "prep. s", "MiB", "ours / its", "padding")
    for side in record.sides:
        made.add_row(
            side.name,
            f"{side.seconds:.3f}",
            f"{side.ratio:.2f}",
            f"{side.cpu_ratio:.2f}",
            f"{side.ratio_with_preparation:.2f}",
            f"{side.preparation_seconds:.1f}",
            f"{side.peak_bytes / 2**20:.0f}",
            f"{side.memory_ratio:.2f}",
            f"{side.padding:.1%}",
        )
    return made


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default=",".join(NAMES), help="names with commas between them")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a tiny model and two pairs: does it run?")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", default="training", help="record in results/performance; trl's is NAME-trl")
    given = parser.parse_args()
    given.names = given.methods.split(",")
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    given.pairs = 2 if given.quick else given.pairs
    return given


def main() -> None:
    """Measure, print and keep the records."""
    given, console, found = parse(), Console(width=140), []
    transformers.utils.logging.set_verbosity_error()
    shape = Shape(num_layers=8, hidden_size=64, intermediate_size=128) if given.quick else Shape()
    rows = tofu_rows(shape.vocab_size)
    for name in given.names:
        if name != "dpo":
            found.append(measure(name, shape, given.batch_size, given.pairs, rows, not given.no_memory))
            console.print(f"{name}: {found[-1].ratio:.2f}x")
    if found:
        record = TrainingSpeed(
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            shape=vars(shape),
            batch_size=given.batch_size,
            pairs=given.pairs,
            machine=machine(),
            methods=found,
        )
        console.print(table(record))
        if not given.quick:
            place = RESULTS / f"{given.out}.json"
            write_record(place, beside(read_record(place, TrainingSpeed), record) if place.is_file() else record)
    if "dpo" in given.names:
        against_trl(given, shape, rows, console)


def beside(old: TrainingSpeed, new: TrainingSpeed) -> TrainingSpeed:
    """The new record with the old one's other methods, if both were made alike."""
    alike = {name: getattr(new, name) for name in ("shape", "batch_size", "pairs", "machine")}
    if any(getattr(old, name) != value for name, value in alike.items()):
        return new
    methods = {item.method: item for item in (*old.methods, *new.methods)}
    return new.model_copy(update={"methods": [methods[name] for name in METHODS if name in methods]})


def against_trl(given: argparse.Namespace, shape: Shape, rows: Any, console: Console) -> None:
    """Measure DPO beside trl's trainer, print and keep the record; without trl, say what to install."""
    if missing():
        console.print(f"dpo: left out, because {missing()}", markup=False)
        return
    record = measure_trl(shape, rows, given.batch_size, given.pairs)
    console.print(trl_table(record))
    if not given.quick:
        write_record(RESULTS / f"{given.out}-trl.json", record)


if __name__ == "__main__":
    main()
