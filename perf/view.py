"""Measure the viewer: time until it answers, time of the list and of searches, and its memory.

python -m perf.view [--runs 1000] [--rows 100000] [--quick]

The folder has copies of a run of results/runs, one of which has a file of samples with as many rows as asked for. The
viewer is the command `expunge view` in a process of its own, asked over HTTP. Memory is its largest resident size after
the list, searches, a comparison and reports, but no chat. `--quick` has 50 runs and 2,000 rows and writes no record.

The benchmark fails above the limits: 1 second of CPU time for the list and for a search, 300 MB of memory.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.records import Record
from expunge.rundir import write_record
from perf.evaluation import RESULTS
from perf.measure import machine

SOURCE = RESULTS.parent / "runs" / "forget10-npo"
SEARCHES = ["author", "AUTHOR city", "nowhere-to-be-found", "the of and", "42", "born novel river"]
LIMIT_SECONDS, LIMIT_BYTES = 1.0, 300e6


class Cost(Record):
    """Cost of one request, or of the start."""

    seconds: float
    """Until the answer is complete; on a busy machine this also measures other load."""
    cpu_seconds: float
    """CPU time of the viewer, in all threads; on an idle machine the answer takes at most as long."""


class ViewerCost(Record):
    """Record of this benchmark."""

    created: str
    machine: dict[str, Any]
    runs: int
    rows: int
    sample_bytes: int
    """Size of the Parquet file with the rows."""
    start: Cost
    """From the start of the process to the address, with all runs read."""
    lists: list[Cost]
    """Requests for the list of all runs, the first one first."""
    changed_list: Cost
    """Request for the list after all runs have changed."""
    searches: dict[str, Cost]
    """Query -> first request for it."""
    page: Cost
    """Request for another page of the last query."""
    peak_bytes: int
    """Largest resident size of the process."""


def write_runs(root: Path, runs: int, rows: int) -> int:
    """Write copies of a run, one with samples; return the size of the samples in bytes."""
    for index in range(runs):
        shutil.copytree(SOURCE, root / f"run-{index:04d}")
    words = ["author", "city", "born", "novel", "river", "the", "of", "and", *(f"word{i}" for i in range(2000))]
    choose = random.Random(0)

    def text() -> str:
        return " ".join(choose.choices(words, k=25))

    columns: dict[str, list[Any]] = {
        "set": ["forget"] * rows,
        "index": list(range(rows)),
        "question": [text() for _ in range(rows)],
        "answer": [text() for _ in range(rows)],
        "generation": [text() for _ in range(rows)],
        "probability": [choose.random() for _ in range(rows)],
    }
    path = root / "run-0000/samples/unlearned-tofu-000125.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table(columns), path)
    return path.stat().st_size


class Viewer:
    """A running `expunge view` with its cookie."""

    def __init__(self, root: Path) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "expunge", "view", str(root), "--port", "0", "--no-open"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = self.process.stdout.readline().split()[-1]
        self.start = Cost(seconds=time.perf_counter() - started, cpu_seconds=self._cpu_seconds())
        self._address = address.partition("/?")[0]
        self._client = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._client.open(address).read()

    def cost(self, path: str) -> Cost:
        """Return what it costs to answer a path."""
        started, before = time.perf_counter(), self._cpu_seconds()
        self._client.open(self._address + path).read()
        return Cost(seconds=time.perf_counter() - started, cpu_seconds=self._cpu_seconds() - before)

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """Return the largest resident size so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def measure(root: Path, runs: int, rows: int) -> ViewerCost:
    """Measure all requests of a new viewer."""
    size = write_runs(root, runs, rows)
    viewer = Viewer(root)
    try:
        samples = "/api/runs/run-0000/samples/unlearned-tofu-000125?q="
        lists = [viewer.cost("/api/runs") for _ in range(5)]
        for path in root.glob("*/summary.json"):
            path.touch()
        changed = viewer.cost("/api/runs")
        searches = {query: viewer.cost(samples + quote(query)) for query in SEARCHES}
        page = viewer.cost(f"{samples}{quote(SEARCHES[-1])}&start=20")
        for path in ("/api/compare?run=run-0001&run=run-0002", "/report/run-0001", "/api/runs/run-0001"):
            viewer.cost(path)
        peak = viewer.peak_bytes()
    finally:
        viewer.process.terminate()
        viewer.process.wait()
    return ViewerCost(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        runs=runs,
        rows=rows,
        sample_bytes=size,
        start=viewer.start,
        lists=lists,
        changed_list=changed,
        searches=searches,
        page=page,
        peak_bytes=peak,
    )


def exceeded(record: ViewerCost) -> list[str]:
    """Return the limits that a record exceeds."""
    costs = {"the list": slowest(record.lists), "a search": slowest(record.searches.values())}
    problems = [
        f"{what} took {cost.cpu_seconds:.2f} s" for what, cost in costs.items() if cost.cpu_seconds > LIMIT_SECONDS
    ]
    return problems + ([f"{record.peak_bytes / 1e6:.0f} MB of memory"] if record.peak_bytes > LIMIT_BYTES else [])


def slowest(costs: Iterable[Cost]) -> Cost:
    """Return the cost with the most CPU time."""
    return max(costs, key=lambda cost: cost.cpu_seconds)


def main() -> None:
    """Measure, print, write the record, and exit with an error above a limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="50 runs and 2,000 rows, no record")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), 50 if args.quick else args.runs, 2000 if args.quick else args.rows)
    shown = {"start": record.start, "list": slowest(record.lists), "list after a change of all": record.changed_list}
    shown |= {f"search '{query}'": cost for query, cost in record.searches.items()}
    print(f"{record.runs} runs, {record.rows} rows; seconds, and CPU seconds of the viewer:")
    for name, cost in {**shown, "another page": record.page}.items():
        print(f"{name}: {cost.seconds:.2f} {cost.cpu_seconds:.2f}")
    print(f"memory {record.peak_bytes / 1e6:.0f} MB")
    if not args.quick:
        write_record(RESULTS / "view.json", record)
    if problems := exceeded(record):
        sys.exit(f"Above the limits: {'; '.join(problems)}.")


if __name__ == "__main__":
    main()
