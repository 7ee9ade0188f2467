"""Measure seconds per step and peak memory of each method against the plain training, and DPO against trl's trainer.

python -m perf.training [--methods npo,rmu-4,dpo] [--pairs 7] [--quick] [--no-memory]
python -m perf.training --model FOLDER --out NAME

Both trainings alternate step by step in one process, so other load on the machine affects both; ratios are of medians.
Memory is the peak resident size above imports and rows, the median of three processes. `dpo` is compared with trl's
DPOTrainer if trl is installed; there each training has a process of its own, and they alternate, too.

With --model, the model in a folder is trained instead of one with random weights, in a record of its own. A record
whose other methods were measured in another way is never replaced: measure all methods again, or give another --out.

The rows are TOFU's: see perf/model.py for the environment variable EXPUNGE_TOFU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
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
    model: str = ""
    """Name of the folder of the model; empty for random weights."""
    shape: dict[str, int]
    batch_size: int
    pairs: int
    machine: dict[str, Any]
    gemm_flops: float | None = None
    """Float32 operations per second of a large matrix product here, the best of several."""
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
    parser.add_argument("--model", default="", help="folder of a model; by default a Llama with random weights")
    parser.add_argument("--quick", action="store_true", help="smoke test: a tiny model and two pairs, no record")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", default="training", help="name of the record in results/performance; trl's: NAME-trl")
    args = parser.parse_args()
    args.names = args.methods.split(",")
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown method {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    if args.model and args.quick:
        parser.error("--quick trains a tiny model of its own; leave it out with --model")
    if args.model and args.out == "training":
        parser.error("--model needs --out NAME, since the record 'training' is of random weights")
    if args.model and "dpo" in args.names:
        if args.methods != parser.get_default("methods"):
            parser.error("dpo is compared on random weights only; leave it out with --model")
        args.names.remove("dpo")
    args.pairs = 2 if args.quick else args.pairs
    return args


def main() -> None:
    """Measure, print and write the records."""
    args, console, results = parse(), Console(width=140), []
    transformers.utils.logging.set_verbosity_error()
    shape = Shape(num_layers=8, hidden_size=64, intermediate_size=128) if args.quick else Shape()
    if args.model:
        shape = Shape.of_folder(args.model)
        deep = [name for name in args.names if getattr(METHODS.get(name), "layer", 0) >= shape.num_layers]
        if deep:
            sys.exit(f"The model has {shape.num_layers} layers, too few for {', '.join(deep)}; leave it out.")
    path = RESULTS / f"{args.out}.json"
    record = TrainingSpeed(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Path(args.model).name,
        shape=shape.sizes,
        batch_size=args.batch_size,
        pairs=args.pairs,
        machine=machine(),
        gemm_flops=measure_gemm(),
        methods=[],
    )
    stored = read_record(path, TrainingSpeed) if path.is_file() and not args.quick else None
    if stored is not None and (problem := conflict(stored, record, args.names)):
        sys.exit(f"results/performance/{path.name} {problem}; measure these too, or give --out NAME.")
    rows = tofu_rows(shape)
    for name in args.names:
        if name != "dpo":
            results.append(measure(name, shape, args.batch_size, args.pairs, rows, not args.no_memory))
            console.print(f"{name}: {results[-1].ratio:.2f}x")
    if results:
        record = record.model_copy(update={"methods": results})
        console.print(table(record))
        console.print(f"A float32 matrix product runs at {(record.gemm_flops or 0) / 1e9:.0f} GFLOP/s.")
        if not args.quick:
            write_record(path, record if stored is None else merged(stored, record))
    if "dpo" in args.names:
        against_trl(args, shape, rows, console)


def differences(old: TrainingSpeed, new: TrainingSpeed) -> list[str]:
    """Return the settings in which two records differ, so that their methods do not compare."""
    settings = ("model", "shape", "batch_size", "pairs", "machine")
    return [name for name in settings if getattr(old, name) != getattr(new, name)]


def conflict(old: TrainingSpeed, new: TrainingSpeed, names: Sequence[str]) -> str:
    """Return why measuring some methods would lose stored ones; empty if it would not.

    Args:
        old: The stored record.
        new: The record to write, whose methods are not measured yet.
        names: Methods to measure.
    """
    lost = [item.method for item in old.methods if item.method not in names]
    if not lost or not (changed := differences(old, new)):
        return ""
    return f"has other methods ({', '.join(lost)}), measured with another {' and '.join(changed)}"


def merged(old: TrainingSpeed, new: TrainingSpeed) -> TrainingSpeed:
    """Return the new record with the old one's other methods, if both were measured in the same way."""
    if differences(old, new):
        return new
    methods = {item.method: item for item in (*old.methods, *new.methods)}
    return new.model_copy(update={"methods": [methods[name] for name in METHODS if name in methods]})


def measure_gemm(size: int = 1024, repeats: int = 8) -> float:
    """Return the operations per second of the fastest of several float32 products of square matrices."""
    matrix = torch.rand(size, size)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


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
