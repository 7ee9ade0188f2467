"""Seconds, forward passes, tokens and peak memory of a full TOFU evaluation, ours against the plain way.

python -m perf.evaluation [--pairs 3] [--rows 400] [--suites first,all,gradients] [--no-memory]

The model is a stand-in that has learnt all of TOFU, the retain model one that has not learnt forget10. `first` is what
TOFU's paper measures: probability, truth ratio and ROUGE on four sets, forget quality and model utility. `all` adds
memorisation, membership and paraphrased questions, `gradients` also the gradient norms. TOFU's holdout set is not
among the files, so fictitious people of our own stand in for it. The retain model's numbers are ready beforehand, as in
published evaluations. Both are taken by turns in one process; memory is the peak resident size above imports and rows
in a process of its own. Numbers must agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from expunge.benchmarks.tofu.benchmark import Tofu
from expunge.config.recipe import Evaluate, Prompt, SyntheticData, TofuData
from expunge.data.prepare import prepare_sets
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.load import context_length, load_tokenizer
from expunge.modeling.peak_memory import reset_peak, resident_peak
from expunge.records import Record
from expunge.rundir import write_record
from expunge.runs.evaluator import Evaluator
from perf.measure import machine
from perf.model import PAD, tofu_folder
from perf.plain_evaluation import PlainEvaluation

RESULTS = Path(__file__).parents[1] / "results" / "performance"
MODEL, REFERENCE = "tofu-llama-4m-full", "tofu-llama-4m-retain90"
SUITES = {
    "first": Tofu(memorization=False),
    "all": Tofu(paraphrased=True),
    "gradients": Tofu(paraphrased=True, gradient_norm=True),
}
GOALS = {"first": (4.0, 0.8), "all": (3.0, None), "gradients": (3.0, None)}
TOLERANCE, HEADLINE_TOLERANCE = 1e-5, 1e-6


class Side(Record):
    """One way of measuring."""

    seconds: list[float]
    cpu_seconds: list[float]
    """Of all threads: what is left of the seconds where other programs take the machine's time."""
    forwards: int
    tokens: int
    """Real tokens that the model was run on."""
    padded_tokens: int
    """The same with padding, and with answers that had ended."""
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


class Suite(Record):
    """Both ways on one set of metrics."""

    name: str
    settings: dict[str, Any]
    goal_ratio: float
    goal_memory: float | None
    ours: Side
    plain: Side
    ratio: float
    """Plain median over ours."""
    cpu_ratio: float
    memory_ratio: float | None
    compared: int
    """Numbers that both give."""
    largest_difference: float
    largest_headline_difference: float
    other_answers: int
    """Generated answers that differ."""


class EvaluationSpeed(Record):
    """A run of this benchmark."""

    made: str
    model: str
    rows: dict[str, int]
    machine: dict[str, Any]
    suites: list[Suite]


class Bench:
    """The model, the retain model and the rows.

    Args:
        num_rows: At most this many rows of each set.
    """

    def __init__(self, num_rows: int) -> None:
        tofu = prepare_sets(TofuData(split="forget10", path=str(tofu_folder()), duplicates="off"))
        unseen = prepare_sets(SyntheticData(num_people=400, duplicates="off")).holdout
        assert unseen is not None
        cut = {name: _cut(rows, num_rows) for name, rows in tofu.evaluation.items()}
        self.sets: Sets = replace(tofu, evaluation=cut, holdout=_cut(unseen, num_rows))
        self.rows = {**cut, "holdout": _cut(unseen, num_rows)}
        tokenizer = load_tokenizer(str(_folder(MODEL)))
        self.template = Template(tokenizer, Prompt(style="chat" if tokenizer.chat_template else "plain"), 512)

    @cached_property
    def model(self) -> Any:
        """The model that is measured."""
        return _load(MODEL)

    @cached_property
    def retain_model(self) -> list[dict[str, Any]]:
        """The retain model's rows, without generated answers."""
        benchmark = Tofu(generate=False)
        return self.evaluator.measure(_load(REFERENCE), benchmark, "the retain model").rows

    @property
    def evaluator(self) -> Evaluator:
        """Ours, as `expunge evaluate` sets it up, without a memory."""
        template = Template(self.template.tokenizer, self.template.prompt, context_length(self.model.config))
        return Evaluator(self.sets, template, Evaluate().batch_tokens)

    def ours(self, suite: str) -> tuple[dict[str, float], dict[str, list[str]]]:
        """Numbers and generated answers."""
        benchmark = SUITES[suite]
        rows = self.evaluator.measure(self.model, benchmark, "the model").rows
        found = benchmark.headlines(rows, self.retain_model, resamples=0, seed=0)
        texts: dict[str, list[str]] = {}
        for row in rows:
            texts.setdefault(row["set"], []).append(row["generation"])
            texts.setdefault(f"{row['set']}/paraphrased", []).append(row["paraphrased_generation"])
        values = {**found.headlines, **found.metrics}
        return {name: value.point for name, value in values.items() if value.point is not None}, texts

    def plain(self, suite: str) -> tuple[dict[str, float], dict[str, list[str]]]:
        """The same."""
        side = PlainEvaluation(self.model, self.template, self.rows)
        forget = [row for row in self.retain_model if row["set"] == "forget"]
        numbers = side.first(
            {
                "right": [row["paraphrased_nll"] for row in forget],
                "wrong": [row["perturbed_nll"] for row in forget],
            }
        )
        if suite != "first":
            names = ("forget", "holdout")
            losses = {name: [row["nll"] for row in self.retain_model if row["set"] == name] for name in names}
            numbers |= side.extras(losses)
        if suite == "gradients":
            numbers |= side.gradient_norms()
        return numbers, side.generations


def measure(bench: Bench, suite: str, pairs: int, num_rows: int, memory: bool) -> Suite:
    """Time one suite by turns, compare what comes out, and measure memory apart."""
    sides: dict[str, Callable[[str], Any]] = {"ours": bench.ours, "plain": bench.plain}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, Any] = {}
    counted: dict[str, list[int]] = {}
    _ = bench.retain_model
    for _pair in range(pairs):
        for name, run in sides.items():
            with counting(bench.model) as counts:
                began, began_cpu = time.perf_counter(), time.process_time()
                found[name] = run(suite)
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - began_cpu)
            counted[name] = counts
    peaks = {name: peak_apart(name, suite, num_rows) if memory else None for name in sides}
    made = {
        name: Side(
            seconds=seconds[name],
            cpu_seconds=cpu_seconds[name],
            forwards=counted[name][0],
            tokens=counted[name][1],
            padded_tokens=counted[name][2],
            peak_bytes=peaks[name],
        )
        for name in sides
    }
    gaps = {key: abs(value - found["ours"][0][key]) for key, value in found["plain"][0].items()}
    headlines = ("forget_quality", "model_utility")
    texts = [
        (one, other)
        for name, answers in found["plain"][1].items()
        for one, other in zip(answers, found["ours"][1][name], strict=True)
    ]
    both = peaks["ours"] is not None and peaks["plain"] is not None
    return Suite(
        name=suite,
        settings=SUITES[suite].spec(),
        goal_ratio=GOALS[suite][0],
        goal_memory=GOALS[suite][1],
        **made,
        ratio=made["plain"].median / made["ours"].median,
        cpu_ratio=statistics.median(cpu_seconds["plain"]) / statistics.median(cpu_seconds["ours"]),
        memory_ratio=peaks["ours"] / peaks["plain"] if both else None,  # type: ignore[operator]
        compared=len(gaps),
        largest_difference=max(gaps.values()),
        largest_headline_difference=max(gaps[name] for name in headlines),
        other_answers=sum(one != other for one, other in texts),
    )


@contextmanager
def counting(model: Any) -> Iterator[list[int]]:
    """Forward passes, real and padded tokens of everything that runs inside."""
    counts = [0, 0, 0]

    def count(layer: Any, args: Any, output: Any) -> None:
        counts[0] += 1
        counts[1] += int((args[0] != PAD).sum())
        counts[2] += args[0].numel()

    hook = model.get_input_embeddings().register_forward_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def peak_apart(side: str, suite: str, num_rows: int) -> int:
    """Peak resident bytes above imports, rows and the retain model's numbers, in a new process."""
    task = json.dumps({"side": side, "suite": suite, "num_rows": num_rows})
    done = subprocess.run(
        [sys.executable, "-m", "perf.evaluation", "--peak", task],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        sys.exit(f"The memory measurement of {suite} ({side}) failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def peak(side: str, suite: str, num_rows: int) -> int:
    """What `peak_apart` runs."""
    bench = Bench(num_rows)
    needed = ("set", "question", "answer", "nll", "paraphrased_nll", "perturbed_nll", "group", "min_k")
    # Losses of the right length: what they are takes no memory more or less, and making them would.
    bench.__dict__["retain_model"] = [
        dict.fromkeys(needed)
        | {"set": name, "question": row.question, "answer": row.answer, "group": row.group, "nll": 1.0, "min_k": 1.0}
        | {"paraphrased_nll": 1.0, "perturbed_nll": [2.0 + i] * max(1, len(row.perturbed_answers))}
        for name, rows in bench.rows.items()
        for i, row in enumerate(rows)
    ]
    reset_peak()
    before = resident_peak()
    getattr(bench, side)(suite)
    return resident_peak() - before


def table(record: EvaluationSpeed) -> Table:
    """The record as a person reads it."""
    made = Table(
        "suite",
        "way",
        "seconds",
        "ratio",
        "CPU",
        "goal",
        "forwards",
        "tokens",
        "padding",
        "MiB",
        "memory",
        "difference",
    )
    for item in record.suites:
        for name, side in (("plain", item.plain), ("ours", item.ours)):
            mine = name == "ours"
            made.add_row(
                item.name,
                name,
                f"{side.median:.1f}",
                f"{item.ratio:.2f}" if mine else "",
                f"{item.cpu_ratio:.2f}" if mine else "",
                f"{item.goal_ratio:g}" if mine else "",
                f"{side.forwards:,}",
                f"{side.tokens:,}",
                f"{1 - side.tokens / side.padded_tokens:.1%}",
                f"{side.peak_bytes / 2**20:.0f}" if side.peak_bytes else "-",
                f"{item.memory_ratio:.2f}" if mine and item.memory_ratio else "",
                f"{item.largest_difference:.0e}, {item.other_answers} answers" if mine else "",
            )
    return made


def _cut(rows: RowSet, num_rows: int) -> RowSet:
    return RowSet(rows.name, rows.rows[:num_rows])


def _folder(name: str) -> Path:
    return tofu_folder().parents[1] / "models" / name


def _load(name: str) -> Any:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(_folder(name), dtype=torch.float32)
    return loaded.eval()


def main() -> None:
    """Measure, print, keep the record, and fail where numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400, help="at most this many rows of each set")
    parser.add_argument("--suites", default=",".join(SUITES), help="names with commas between them")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", default="evaluation", help="name of the record in results/performance")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    if given.peak:
        print(peak(**json.loads(given.peak)))
        return
    names = given.suites.split(",")
    unknown = set(names) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    bench, console, found = Bench(given.rows), Console(width=150), []
    for name in names:
        found.append(measure(bench, name, given.pairs, given.rows, not given.no_memory))
        console.print(f"{name}: {found[-1].ratio:.2f}x")
    record = EvaluationSpeed(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        model=MODEL,
        rows={name: len(rows) for name, rows in bench.rows.items()},
        machine=machine(),
        suites=found,
    )
    console.print(table(record))
    write_record(RESULTS / f"{given.out}.json", record)
    wrong = [
        item.name
        for item in found
        if item.largest_difference > TOLERANCE
        or item.largest_headline_difference > HEADLINE_TOLERANCE
        or item.other_answers
    ]
    if wrong:
        sys.exit(f"Numbers differ in {', '.join(wrong)}.")


if __name__ == "__main__":
    main()
