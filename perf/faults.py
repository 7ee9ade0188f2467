"""Stop real commands at random moments, repeat them, and compare the results with those of undisturbed commands.

python -m perf.faults [--kills 50] [--seed 0] [--work FOLDER] [--quick]

Every command is the real one, in a process of its own: a small run (training of target and retain model, unlearning,
evaluation after each epoch, report), an audit of that run, and a sweep. An undisturbed command gives the expected
files and the duration. Then, for each experiment, the command is started in a new folder, gets SIGKILL (some more get
SIGTERM or SIGINT) after a uniformly random share of that duration, and is repeated until it ends by itself. Expected:
the same files with the same content, apart from times and memory. Then two processes start the same run at the same
time, 20 times: one of them runs, the other one is refused, or finds the run complete.

Finished experiments are stored in the work folder, so a repeated command resumes. `--quick` has 3 experiments and
writes no record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import yaml

from expunge.console import note
from expunge.records import Record
from expunge.rundir import fingerprint, read_record, write_record
from perf.evaluation import RESULTS
from perf.measure import machine

TRAINING = {"steps": 6, "lr": 5e-3, "batch_size": 16, "device_batch_size": 16, "max_length": 96}
RECIPE = {
    "name": "small",
    "seed": 0,
    "model": {
        "scratch": {
            "hidden_size": 32,
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_size": 64,
            "vocab_size": 600,
            "max_length": 96,
        },
        "device": "cpu",
    },
    "data": {"name": "synthetic", "num_people": 6, "forget_fraction": 0.34},
    "target": TRAINING,
    "retain_model": TRAINING,
    "method": {"name": "npo", "beta": 0.1, "retain_weight": 2},
    "train": {"epochs": 6, "lr": 1e-3, "batch_size": 4, "device_batch_size": 2, "max_length": 96},
    "evaluate": {"benchmarks": [{"name": "tofu", "max_new_tokens": 4, "ds_size": 8}], "bootstrap": 20},
}
SWEEP = {
    "name": "small",
    "recipe": "./small.yaml",
    "over": {"train.lr": [1e-4, 1e-3], "method.beta": [0.1, 0.5]},
    "objectives": {"forget_quality": "up"},
}
AUDIT = [
    "--set",
    "tiers=[all, shuffled]",
    "--set",
    "steps=[2, 4]",
    "--set",
    "lora_lr=[1e-4]",
    "--set",
    "full_lr=[1e-5]",
]
NUM_STARTS = 20
MAX_REPEATS = 3
"""A command that was stopped once has to end by itself after so many repetitions."""
_VOLATILE = {"seconds", "created", "peak_bytes", "saved_seconds"}
_MEASURES = re.compile(r"\d+(\.\d+)?(?= ?(s|min|GiB|MiB)\b)|\d{4}-\d\d-\d\d[T ][\d:+.Z]*")


class Experiment(Record):
    """One command that was stopped and repeated, or two that started together."""

    command: str
    signal: str
    after_seconds: float
    """Moment of the signal."""
    stage: str
    """Last line of progress before the signal."""
    repeats: int
    """Calls until the command ended by itself."""
    differences: list[str]
    """Files that are missing, left over or different; empty if all is equal."""


class Faults(Record):
    """Record of these experiments."""

    created: str
    seed: int
    machine: dict[str, Any]
    experiments: list[Experiment]
    starts: list[list[int]]
    """Exit codes of the two processes of each pair; 2 is a refusal."""
    start_differences: list[str]


@dataclass(frozen=True)
class Command:
    """A command of a user."""

    name: str
    words: Sequence[str]
    prepared: Path | None = None
    """Folder whose content is there before the command."""

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """Start the command in a folder."""
        return subprocess.Popen(
            [sys.executable, "-m", "expunge", *self.words],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def folder(self, path: Path) -> Path:
        """Return a new folder, with what has to be there before the command."""
        if path.exists():
            shutil.rmtree(path)
        if self.prepared is not None:
            shutil.copytree(self.prepared, path)
        else:
            path.mkdir(parents=True)
            (path / "small.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
            (path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False), encoding="utf-8")
        return path


def snapshot(folder: Path) -> dict[str, str]:
    """Return a hash of the content of each file below a folder, without times, memory and locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def _content(path: Path) -> bytes:
    if path.suffix in {".svg", ".png", ".db"}:
        # Images have random ids, and a data base has times; their numbers are in the records.
        return b""
    if path.suffix == ".parquet":
        return _canonical(pyarrow.parquet.read_table(path).to_pylist())
    if path.suffix == ".json":
        return _canonical(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return _canonical([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    if path.suffix in {".html", ".md"}:
        return _MEASURES.sub("", path.read_text(encoding="utf-8")).encode()
    return path.read_bytes()


def _canonical(value: Any) -> bytes:
    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(each) for key, each in value.items() if key not in _VOLATILE}
        return [cleaned(each) for each in value] if isinstance(value, list) else value

    return json.dumps(cleaned(value), sort_keys=True, default=str).encode()


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return what differs between two snapshots, in words."""
    return [
        *(f"missing: {name}" for name in sorted(expected.keys() - found.keys())),
        *(f"left over: {name}" for name in sorted(found.keys() - expected.keys())),
        *(f"different: {name}" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]),
    ]


def undisturbed(command: Command, folder: Path) -> tuple[dict[str, str], float]:
    """Run a command to its end, and return the snapshot of its folder and the seconds."""
    command.folder(folder)
    started = time.monotonic()
    _, words = (process := command.start(folder)).communicate()
    if process.returncode:
        sys.exit(f"{command.name} failed without being disturbed:\n{words}")
    return snapshot(folder), time.monotonic() - started


def disturb(command: Command, folder: Path, number: signal.Signals, seconds: float) -> tuple[str, int]:
    """Send a signal after some seconds, and repeat the command until it ends by itself.

    Returns:
        The last line of progress before the signal, and the number of repetitions.
    """
    command.folder(folder)
    process = command.start(folder)
    try:
        _, words = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, words = process.communicate()
    lines = [line for line in words.splitlines() if line.strip() and not line.startswith("Stopping at")]
    stage = re.sub(r"\d+", "#", lines[-1])[:80] if lines else "start"
    for repeats in range(1, MAX_REPEATS + 1):
        _, words = (process := command.start(folder)).communicate()
        if process.returncode == 0:
            return stage, repeats
    sys.exit(f"{command.name} does not end after {MAX_REPEATS} repetitions:\n{words}")


def start_twice(command: Command, folder: Path) -> list[int]:
    """Start a command in two processes at the same time, and return their exit codes."""
    command.folder(folder)
    processes = [command.start(folder) for _ in range(2)]
    words = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    refused = [text for code, text in zip(codes, words, strict=True) if code]
    if any("is in use by" not in " ".join(text.split()) for text in refused):
        sys.exit(f"A refused process did not say why:\n{refused}")
    return sorted(codes)


def experiments(commands: Sequence[tuple[Command, int]], work: Path, seed: int) -> list[Experiment]:
    """Run all experiments, or read those that are stored."""
    found = []
    for command, count in commands:
        expected, duration = undisturbed(command, work / f"{command.name}-undisturbed")
        signals = [signal.SIGKILL] * count + [signal.SIGTERM, signal.SIGINT] * (count // 10)
        shares = np.random.default_rng([seed, len(found)]).uniform(size=len(signals))
        for index, (number, share) in enumerate(zip(signals, shares, strict=True)):
            stored = work / f"{command.name}-{index}-{fingerprint([seed, count])}.json"
            if not stored.is_file():
                folder = work / command.name
                stage, repeats = disturb(command, folder, number, share * duration)
                write_record(
                    stored,
                    Experiment(
                        command=command.name,
                        signal=number.name,
                        after_seconds=round(share * duration, 2),
                        stage=stage,
                        repeats=repeats,
                        differences=differences(snapshot(folder), expected),
                    ),
                )
            found.append(read_record(stored, Experiment))
            note(f"{command.name} {index + 1} of {len(signals)}: {found[-1].stage}; {found[-1].differences or 'equal'}")
    return found


def main() -> None:
    """Run the experiments, write the record, and exit with an error if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50, help="killed runs; a fifth as many audits and sweeps each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of the experiments (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="3 experiments and 1 pair, no record")
    args = parser.parse_args()
    kills, starts = (1, 1) if args.quick else (args.kills, NUM_STARTS)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        run = Command("run", ["run", "small.yaml"])
        expected, _ = undisturbed(run, work / "finished")
        (folder,) = (work / "finished/runs").glob("small-*")
        audit = Command("audit", ["audit", f"runs/{folder.name}", "relearn", *AUDIT], work / "finished")
        sweep = Command("sweep", ["sweep", "sweep.yaml"])
        others = max(1, kills // 5)
        done = experiments([(run, kills), (audit, others), (sweep, others)], work, args.seed)
        pairs, left = [], []
        for index in range(starts):
            pairs.append(start_twice(run, work / "twice"))
            left += differences(snapshot(work / "twice"), expected)
            note(f"Two starts {index + 1} of {starts}: exit codes {pairs[-1]}")
    record = Faults(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=args.seed,
        machine=machine(),
        experiments=done,
        starts=pairs,
        start_differences=left,
    )
    unequal = [each for each in done if each.differences]
    print(f"{len(done) - len(unequal)} of {len(done)} stopped commands end equal; exit codes of pairs: {pairs}")
    if not args.quick:
        write_record(RESULTS / "faults.json", record)
    if unequal or left:
        sys.exit("\n".join([*(f"{each.command} ({each.stage}): {each.differences}" for each in unequal), *left]))


if __name__ == "__main__":
    main()
