"""Measure seconds per step and peak memory of each method against the plain training, and DPO against trl's trainer.

python -m perf.training [--methods npo,rmu-4,dpo] [--pairs 7] [--quick] [--no-memory]

Both trainings alternate step by step in one process, so other load on the machine affects both; ratios are of medians.
Memory is the peak resident size above imports and rows, the median of three processes. `dpo` is compared with trl's
DPOTrainer if trl is installed; there each training has a process of its own, and they alternate, too.

The rows are TOFU's: see perf/model.py for the environment variable EXPUNGE_TOFU.
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


class Measured(Record):
    """One method in both implementations."""

    method: str
    settings: dict[str, Any]
    ours_seconds: float
    """Median seconds per step."""
    plain_seconds: float
    ratio: float
    """Plain median over ours."""
    preparation_seconds: float
    """Seconds up to the first gradient, once per training: model, reference, one forward and backward pass."""
    ratio_with_preparation: float
    """`ratio` with the preparation spread over the steps of a published training."""
    all_ours_seconds: list[float]
    all_plain_seconds: list[float]
    tokens_per_second: float
    """Real tokens per second, ours."""
    plain_tokens_per_second: float
    padding: float
    """Share of padding among the tokens that the model was run on, ours."""
    plain_padding: float
    ours_bytes: int | None
    """Peak resident memory above imports and rows."""
    plain_bytes: int | None
    memory_ratio: float | None
    """Ours over plain."""
    memory_runs: int = 1
    """Processes whose median the bytes are; glibc's heap differs from run to run."""


class TrainingSpeed(Record):
    """Record of this benchmark."""

    created: str
    shape: dict[str, int]
    batch_size: int
    pairs: int
    machine: dict[str, Any]
    methods: list[Measured]


def measure(name: str, shape: Shape, batch_size: int, pairs: int, rows: Any, memory: bool) -> Measured:
    """Time alternating steps of one method, and measure the memory of both implementations in new processes."""
    method = METHODS[name]
    times = alternate(method, shape, rows_of(method, rows), batch_size, pairs)
    ours, plain = (statistics.median(times[f"{side}_seconds"]) for side in ("ours", "plain"))
    sizes: dict[str, int | None] = {"ours": None, "plain": None}
    if memory:
        sizes = {
            side: round(statistics.median(peak_apart(side, name, shape, batch_size, 5) for _ in range(MEMORY_RUNS)))
            for side in sizes
        }
    return Measured(
        method=name,
        settings=method.spec(),
        ours_seconds=ours,
        plain_seconds=plain,
        ratio=plain / ours,
        preparation_seconds=times["preparation_seconds"],
        ratio_with_preparation=plain / (ours + times["preparation_seconds"] / times["steps"]),
        all_ours_seconds=times["ours_seconds"],
        all_plain_seconds=times["plain_seconds"],
        tokens_per_second=times["tokens_per_step"] / ours,
        plain_tokens_per_second=times["tokens_per_step"] / plain,
        padding=times["ours_padding"],
        plain_padding=times["plain_padding"],
        ours_bytes=sizes["ours"],
        plain_bytes=sizes["plain"],
        memory_ratio=sizes["ours"] / sizes["plain"] if sizes["ours"] and sizes["plain"] else None,
        memory_runs=MEMORY_RUNS,
    )


def table(record: TrainingSpeed) -> Table:
    """Return the record as a table for the terminal."""
    result = Table("method", "plain s", "ours s", "ratio", "with prep.", "MiB", "plain", "ratio", "padding")
    for item in record.methods:
        result.add_row(
            item.method,
            f"{item.plain_seconds:.3f}",
            f"{item.ours_seconds:.3f}",
            f"{item.ratio:.2f}",
            f"{item.ratio_with_preparation:.2f}",
            *(f"{size / 2**20:.0f}" if size else "-" for size in (item.ours_bytes, item.plain_bytes)),
            f"{item.memory_ratio:.2f}" if item.memory_ratio else "-",
            f"{item.padding:.1%}",
        )
    return result


def trl_table(record: TrlSpeed) -> Table:
    """Return the comparison with trl as a table for the terminal."""
    result = Table("DPO", "s", "ratio", "CPU time ratio", "with prep.", "prep. s", "MiB", "ours / trl", "padding")
    for side in record.sides:
        result.add_row(
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
    return result


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default=",".join(NAMES), help="comma-separated names")
    parser.add_argument("--pairs", type=int, default=7, help="timed steps of each implementation")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="smoke test: a tiny model and two pairs, no record")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", default="training", help="name of the record in results/performance; trl's: NAME-trl")
    args = parser.parse_args()
    args.names = args.methods.split(",")
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown method {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    args.pairs = 2 if args.quick else args.pairs
    return args


def main() -> None:
    """Measure, print and write the records."""
    args, console, results = parse(), Console(width=140), []
    transformers.utils.logging.set_verbosity_error()
    shape = Shape(num_layers=8, hidden_size=64, intermediate_size=128) if args.quick else Shape()
    rows = tofu_rows(shape.vocab_size)
    for name in args.names:
        if name != "dpo":
            results.append(measure(name, shape, args.batch_size, args.pairs, rows, not args.no_memory))
            console.print(f"{name}: {results[-1].ratio:.2f}x")
    if results:
        record = TrainingSpeed(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            shape=vars(shape),
            batch_size=args.batch_size,
            pairs=args.pairs,
            machine=machine(),
            methods=results,
        )
        console.print(table(record))
        if not args.quick:
            path = RESULTS / f"{args.out}.json"
            write_record(path, merged(read_record(path, TrainingSpeed), record) if path.is_file() else record)
    if "dpo" in args.names:
        against_trl(args, shape, rows, console)


def merged(old: TrainingSpeed, new: TrainingSpeed) -> TrainingSpeed:
    """Return the new record with the old one's other methods, if shape, batch, pairs and machine are equal."""
    settings = {name: getattr(new, name) for name in ("shape", "batch_size", "pairs", "machine")}
    if any(getattr(old, name) != value for name, value in settings.items()):
        return new
    methods = {item.method: item for item in (*old.methods, *new.methods)}
    return new.model_copy(update={"methods": [methods[name] for name in METHODS if name in methods]})


def against_trl(args: argparse.Namespace, shape: Shape, rows: Any, console: Console) -> None:
    """Measure DPO against trl's trainer, print and write the record; without trl, print what to install."""
    if missing():
        console.print(f"dpo: skipped: {missing()}", markup=False)
        return
    record = measure_trl(shape, rows, args.batch_size, args.pairs)
    console.print(trl_table(record))
    if not args.quick:
        write_record(RESULTS / f"{args.out}-trl.json", record)


if __name__ == "__main__":
    main()
