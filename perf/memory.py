"""Measure how peak memory grows with length, vocabulary, batch and layers, for our training and the plain one.

python -m perf.memory [--method npo] [--quick]

One setting is doubled at a time, starting from a small model; each point is measured in a process of its own. The slope
of log memory over log setting is the exponent of growth: 0 for constant, 1 for proportional.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from expunge.records import Record
from expunge.rundir import write_record
from perf.measure import machine, peak_apart
from perf.model import METHODS, Shape

RESULTS = Path(__file__).parents[1] / "results" / "performance"
BASE = Shape(num_layers=4, hidden_size=256, intermediate_size=1024, num_heads=4, vocab_size=8192, max_length=2048)
LENGTH, BATCH = 128, 4
AXES: dict[str, list[int]] = {
    "length": [64, 128, 256, 512],
    "vocabulary": [4096, 8192, 16_384, 32_768],
    "batch": [2, 4, 8, 16],
    "layers": [2, 4, 8, 16],
}


class Growth(Record):
    """Peak memory along one setting."""

    axis: str
    values: list[int]
    ours_bytes: list[int]
    plain_bytes: list[int]
    ours_slope: float
    plain_slope: float


class MemoryGrowth(Record):
    """Record of this benchmark."""

    method: str
    base: dict[str, int]
    machine: dict[str, Any]
    axes: list[Growth]


def slope(values: list[int], sizes: list[int]) -> float:
    """Return the least-squares slope of log size over log value."""
    return float(np.polyfit(np.log(values), np.log(sizes), 1)[0])


def measure(side: str, method: str, axis: str, value: int) -> int:
    """Return the peak bytes of one point."""
    fields = {"vocabulary": "vocab_size", "layers": "num_layers"}
    shape = replace(BASE, **{fields[axis]: value}) if axis in fields else BASE
    return peak_apart(
        side,
        method,
        shape,
        batch_size=value if axis == "batch" else BATCH,
        steps=2,
        length=value if axis == "length" else LENGTH,
    )


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--method", default="npo", choices=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="smoke test: two points of one axis, no record")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    axes = {"length": [32, 64]} if args.quick else AXES
    results = []
    for axis, values in axes.items():
        ours, plain = ([measure(side, args.method, axis, value) for value in values] for side in ("ours", "plain"))
        result = Growth(
            axis=axis,
            values=values,
            ours_bytes=ours,
            plain_bytes=plain,
            ours_slope=slope(values, ours),
            plain_slope=slope(values, plain),
        )
        results.append(result)
        ours_mib, plain_mib = (" ".join(f"{size / 2**20:.0f}" for size in sizes) for sizes in (ours, plain))
        print(
            f"{axis} {values}: ours {ours_mib} MiB (slope {result.ours_slope:.2f}), "
            f"plain {plain_mib} MiB (slope {result.plain_slope:.2f})"
        )
    base = {**BASE.sizes, "length": LENGTH, "batch_size": BATCH}
    record = MemoryGrowth(method=args.method, base=base, machine=machine(), axes=results)
    if not args.quick:
        write_record(RESULTS / "memory.json", record)


if __name__ == "__main__":
    main()
