"""Measure seconds, forward passes, tokens and peak memory of a full TOFU evaluation against the plain one.

python -m perf.evaluation --model MODEL --retain-model MODEL
    [--pairs 3] [--rows 400] [--suites first,all,gradients] [--no-memory]
python -m perf.evaluation --quick

MODEL is a folder or a hub id: a model fine-tuned on all of TOFU, and one fine-tuned on retain90. The record in
results/performance was measured with Llamas of 4 million parameters that were trained from scratch on TOFU. For the
environment variable EXPUNGE_TOFU see perf/model.py. Rows about synthetic people replace TOFU's holdout set.

Suites: `first` has the metrics of TOFU's paper (probability, truth ratio and ROUGE on four sets, forget quality, model
utility); `all` adds memorisation, membership and paraphrased questions; `gradients` adds gradient norms.

Both implementations alternate in one process; memory is the peak resident size above imports and rows in a process of
its own. The retain model's results are computed beforehand, as in published evaluations. The benchmark fails if any
metric or generated answer differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
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
from expunge.config.recipe import Measure, Prompt, SyntheticData
from expunge.data.prepare import prepare_sets
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.load import context_length, load_tokenizer
from expunge.modeling.peak_memory import reset_peak, resident_peak
from expunge.records import Record
from expunge.rundir import write_record
from expunge.runs.evaluator import Evaluator
from perf.measure import machine
from perf.model import PAD, Shape, model, tofu_sets, tofu_tokenizer
from perf.plain_evaluation import PlainEvaluation

RESULTS = Path(__file__).parents[1] / "results" / "performance"
SUITES = {
    "first": Tofu(memorization=False),
    "all": Tofu(paraphrased=True),
    "gradients": Tofu(paraphrased=True, gradient_norm=True),
}
TOLERANCE, HEADLINE_TOLERANCE = 1e-5, 1e-6


class Side(Record):
    """Measurements of one implementation."""

    seconds: list[float]
    cpu_seconds: list[float]
    """CPU seconds over all threads; unaffected by other load on the machine."""
    forwards: int
    """Forward passes."""
    tokens: int
    """Real tokens that the model was run on."""
    padded_tokens: int
    """Tokens that the model was run on, including padding and answers that had ended."""
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


class Suite(Record):
    """Comparison of both implementations on one set of metrics."""

    name: str
    settings: dict[str, Any]
    ours: Side
    plain: Side
    ratio: float
    """Plain median over ours."""
    cpu_ratio: float
    """Plain median of CPU seconds over ours."""
    memory_ratio: float | None
    """Our peak over the plain one."""
    compared: int
    """Number of metrics that both compute."""
    largest_difference: float
    largest_headline_difference: float
    other_answers: int
    """Number of generated answers that differ."""


class EvaluationSpeed(Record):
    """Record of this benchmark."""

    created: str
    model: str
    rows: dict[str, int]
    machine: dict[str, Any]
    suites: list[Suite]


class Bench:
    """The model, the retain model's results and the rows.

    Args:
        model: Folder or hub id of the model to evaluate.
        retain_model: Folder or hub id of the retain model.
        num_rows: Maximum rows per set.
    """

    def __init__(self, model: str, retain_model: str, num_rows: int) -> None:
        self._model_name, self._retain_model_name = model, retain_model
        tofu = tofu_sets()
        unseen = prepare_sets(SyntheticData(num_people=400, duplicates="off")).holdout
        assert unseen is not None
        holdout = RowSet(unseen.name, unseen.rows[:num_rows])
        evaluation = {name: RowSet(rows.name, rows.rows[:num_rows]) for name, rows in tofu.evaluation.items()}
        self.sets: Sets = replace(tofu, evaluation=evaluation, holdout=holdout)
        self.rows = {**evaluation, "holdout": holdout}
        tokenizer = load_tokenizer(model)
        self.template = Template(tokenizer, Prompt(style="chat" if tokenizer.chat_template else "plain"), 512)

    @cached_property
    def model(self) -> Any:
        """Model to evaluate."""
        return load(self._model_name)

    @cached_property
    def retain_rows(self) -> list[dict[str, Any]]:
        """The retain model's results per row, without generated answers."""
        return self.evaluator.measure(load(self._retain_model_name), Tofu(generate=False), "the retain model").rows

    @property
    def evaluator(self) -> Evaluator:
        """Our evaluator, as `expunge evaluate` sets it up, with an empty cache."""
        template = Template(self.template.tokenizer, self.template.prompt, context_length(self.model.config))
        return Evaluator(self.sets, template, Measure())

    def ours(self, suite: str) -> tuple[dict[str, float], dict[str, list[str]]]:
        """Return metrics and generated answers of our evaluation."""
        benchmark = SUITES[suite]
        rows = self.evaluator.measure(self.model, benchmark, "the model").rows
        results = benchmark.headlines(rows, self.retain_rows, resamples=0, seed=0)
        texts: dict[str, list[str]] = {}
        for row in rows:
            texts.setdefault(row["set"], []).append(row["generation"])
            texts.setdefault(f"{row['set']}/paraphrased", []).append(row["paraphrased_generation"])
        values = {**results.headlines, **results.metrics}
        return {name: value.point for name, value in values.items() if value.point is not None}, texts

    def plain(self, suite: str) -> tuple[dict[str, float], dict[str, list[str]]]:
        """Return metrics and generated answers of the plain evaluation."""
        evaluation = PlainEvaluation(self.model, self.template, self.rows)
        forget = [row for row in self.retain_rows if row["set"] == "forget"]
        metrics = evaluation.first(
            {
                "right": [row["paraphrased_nll"] for row in forget],
                "wrong": [row["perturbed_nll"] for row in forget],
            }
        )
        if suite != "first":
            names = ("forget", "holdout")
            losses = {name: [row["nll"] for row in self.retain_rows if row["set"] == name] for name in names}
            metrics |= evaluation.extras(losses)
        if suite == "gradients":
            metrics |= evaluation.gradient_norms()
        return metrics, evaluation.generations


def measure(bench: Bench, suite: str, pairs: int, peaks: dict[str, int | None]) -> Suite:
    """Time alternating evaluations of one suite, and compare their results.

    Args:
        bench: Models and rows.
        suite: One of `SUITES`.
        pairs: Timed evaluations per implementation.
        peaks: Peak bytes of 'ours' and 'plain', or None.
    """
    sides: dict[str, Callable[[str], Any]] = {"ours": bench.ours, "plain": bench.plain}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    counts: dict[str, list[int]] = {}
    # Compute them before the clock starts.
    _ = bench.retain_rows
    for _pair in range(pairs):
        for name, run in sides.items():
            with counting(bench.model) as counts[name]:
                start, cpu_start = time.perf_counter(), time.process_time()
                results[name] = run(suite)
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - cpu_start)
    measured = {
        name: Side(
            seconds=seconds[name],
            cpu_seconds=cpu_seconds[name],
            forwards=counts[name][0],
            tokens=counts[name][1],
            padded_tokens=counts[name][2],
            peak_bytes=peaks[name],
        )
        for name in sides
    }
    (our_metrics, our_texts), (plain_metrics, plain_texts) = results["ours"], results["plain"]
    differences = {name: abs(value - our_metrics[name]) for name, value in plain_metrics.items()}
    return Suite(
        name=suite,
        settings=SUITES[suite].spec(),
        **measured,
        ratio=measured["plain"].median / measured["ours"].median,
        cpu_ratio=statistics.median(cpu_seconds["plain"]) / statistics.median(cpu_seconds["ours"]),
        memory_ratio=peaks["ours"] / peaks["plain"] if peaks["ours"] and peaks["plain"] else None,
        compared=len(differences),
        largest_difference=max(differences.values()),
        largest_headline_difference=max(differences[name] for name in ("forget_quality", "model_utility")),
        other_answers=sum(
            plain_text != our_text
            for name, texts in plain_texts.items()
            for plain_text, our_text in zip(texts, our_texts[name], strict=True)
        ),
    )


@contextmanager
def counting(model: Any) -> Iterator[list[int]]:
    """Count forward passes, real tokens and padded tokens of a model inside the context."""
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


def peak_apart(side: str, suite: str, model: str, num_rows: int) -> int:
    """Return `peak`, measured in a new process."""
    task = json.dumps({"side": side, "suite": suite, "model": model, "num_rows": num_rows})
    result = subprocess.run(
        [sys.executable, "-m", "perf.evaluation", "--peak", task],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if result.returncode:
        sys.exit(f"The memory measurement of {suite} ({side}) failed:\n{result.stderr}")
    return int(result.stdout.splitlines()[-1])


def peak(side: str, suite: str, model: str, num_rows: int) -> int:
    """Return the peak bytes of an evaluation above imports, rows and the retain model's results."""
    bench = Bench(model, "", num_rows)
    columns = ("set", "question", "answer", "nll", "paraphrased_nll", "perturbed_nll", "group", "min_k")
    # Placeholders of the right length in place of the retain model's results: their values do not affect memory, and
    # computing them would.
    bench.__dict__["retain_rows"] = [
        dict.fromkeys(columns)
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
    """Return the record as a table for the terminal."""
    result = Table(
        "suite",
        "implementation",
        "seconds",
        "ratio",
        "CPU time ratio",
        "forwards",
        "tokens",
        "padding",
        "MiB",
        "memory ratio",
        "difference",
    )
    for item in record.suites:
        for name, side in (("plain", item.plain), ("ours", item.ours)):
            is_ours = name == "ours"
            result.add_row(
                item.name,
                name,
                f"{side.median:.1f}",
                f"{item.ratio:.2f}" if is_ours else "",
                f"{item.cpu_ratio:.2f}" if is_ours else "",
                f"{side.forwards:,}",
                f"{side.tokens:,}",
                f"{1 - side.tokens / side.padded_tokens:.1%}",
                f"{side.peak_bytes / 2**20:.0f}" if side.peak_bytes else "-",
                f"{item.memory_ratio:.2f}" if is_ours and item.memory_ratio else "",
                f"{item.largest_difference:.0e}, {item.other_answers} answers" if is_ours else "",
            )
    return result


def load(name: str) -> Any:
    """Return the model of a folder or hub id, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()


def save_tiny(folder: Path) -> list[str]:
    """Save two random models and the tokenizer of TOFU's text, and return their folders."""
    shape = Shape(num_layers=2, hidden_size=32, intermediate_size=64, vocab_size=512)
    tokenizer = tofu_tokenizer(shape.vocab_size)
    for seed in range(2):
        model(shape, seed).save_pretrained(folder / str(seed))
        tokenizer.save_pretrained(folder / str(seed))
    return [str(folder / str(seed)) for seed in range(2)]


def compare(suites: list[str], args: argparse.Namespace) -> EvaluationSpeed:
    """Measure suites with the models, rows and pairs of the command line."""
    bench, results = Bench(args.model, args.retain_model, args.rows), []
    for name in suites:
        peaks = {
            side: None if args.no_memory else peak_apart(side, name, args.model, args.rows)
            for side in ("ours", "plain")
        }
        results.append(measure(bench, name, args.pairs, peaks))
        print(f"{name}: {results[-1].ratio:.2f}x")
    return EvaluationSpeed(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Path(args.model).name,
        rows={name: len(rows) for name, rows in bench.rows.items()},
        machine=machine(),
        suites=results,
    )


def main() -> None:
    """Measure, print, write the record, and exit with an error if results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", help="folder or hub id of a model fine-tuned on TOFU")
    parser.add_argument("--retain-model", help="folder or hub id of a model fine-tuned on retain90")
    parser.add_argument("--pairs", type=int, default=3, help="timed evaluations of each implementation")
    parser.add_argument("--rows", type=int, default=400, help="maximum rows per set")
    parser.add_argument("--suites", default=",".join(SUITES), help="comma-separated names")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smoke test: tiny random models, a few rows, no record")
    parser.add_argument("--out", default="evaluation", help="name of the record in results/performance")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    if args.peak:
        print(peak(**json.loads(args.peak)))
        return
    names = args.suites.split(",")
    unknown = set(names) - set(SUITES)
    if unknown:
        parser.error(f"unknown suite {', '.join(sorted(unknown))}; choose from {', '.join(SUITES)}")
    if args.quick:
        args.pairs, args.rows = 1, 4
    elif not args.model or not args.retain_model:
        parser.error("--model and --retain-model are required")
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.model, args.retain_model = save_tiny(Path(folder))
        record = compare(names, args)
    Console(width=150).print(table(record))
    if not args.quick:
        write_record(RESULTS / f"{args.out}.json", record)
    different = [
        item.name
        for item in record.suites
        if item.largest_difference > TOLERANCE
        or item.largest_headline_difference > HEADLINE_TOLERANCE
        or item.other_answers
    ]
    if different:
        sys.exit(f"Results differ in {', '.join(different)}.")


if __name__ == "__main__":
    main()
