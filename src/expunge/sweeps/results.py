"""Results of a finished trial: headlines on all questions or on halves of them, from the records of its run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from expunge.benchmarks.base import Benchmark, SampleRow
from expunge.config.recipe import Recipe
from expunge.config.sweep import Sweep
from expunge.records import BenchmarkResult, RunSummary, Value
from expunge.records.sweeps import Epoch, Trial
from expunge.rundir import RunDir, fingerprint, read_record
from expunge.runs.context import prepare
from expunge.runs.evaluator import Evaluator, result_name
from expunge.runs.models import evaluate_retain_model, evaluate_target, open_model, rows_of, target_path
from expunge.runs.results import load_result, read_rows
from expunge.sweeps.ranking import first_half, matching_rows


def completed(sweep: Sweep, trial: Trial, recipe: Recipe, summary: RunSummary, runs: Path) -> Trial:
    """Return the record of a trial whose run is complete."""
    folder = Path(summary.folder)
    benchmarks: list[Benchmark] = sweep.final or recipe.evaluate.benchmarks
    measured = _measured(folder, recipe)
    place = _final_folder(sweep, folder) if sweep.final else folder
    if sweep.final:
        results = _measure_final(sweep, recipe, place, runs, summary)
    else:
        results = [result for result in measured if result.step == summary.selected_step]
    headlines = _merged([result.headlines for result in results])
    chosen_on: dict[str, Value] = headlines
    held_out: dict[str, Value] = {}
    if sweep.choose_on == "half":
        chosen_on, held_out = _halves(sweep, recipe, benchmarks, place, results)
    steps = max((result.step for result in measured), default=summary.selected_step)
    return trial.model_copy(
        update={
            "state": "complete",
            "folder": relative(folder, runs),
            "trajectory": epochs_of(measured),
            "steps": steps,
            "planned_steps": steps,
            "headlines": headlines,
            "chosen_on": chosen_on,
            "held_out": held_out,
            "samples": relative(place / results[0].samples, runs) if results and results[0].samples else "",
            "checkpoint": (folder / "checkpoint").is_dir(),
        }
    )


def epochs_of(results: Sequence[BenchmarkResult]) -> list[Epoch]:
    """Return the headlines of all benchmarks, step by step."""
    steps: dict[int, list[BenchmarkResult]] = {}
    for result in results:
        steps.setdefault(result.step, []).append(result)
    return [
        Epoch(step=step, epoch=found[0].epoch, headlines=_merged([result.headlines for result in found]))
        for step, found in sorted(steps.items())
    ]


def baselines(sweep: Sweep, trial: Trial, recipe: Recipe, runs: Path) -> dict[str, dict[str, Value]]:
    """Return the headlines of target and retain model from a trial's run: role -> headline -> value."""
    folder = runs / trial.folder
    place = _final_folder(sweep, folder) if sweep.final else folder
    benchmarks = sweep.final or recipe.evaluate.benchmarks
    found = {role: [load_result(place, result_name(role, b)) for b in benchmarks] for role in ("target", "retain")}
    return {role: _merged([each.headlines for each in results if each]) for role, results in found.items()}


def relative(path: Path, runs: Path) -> str:
    """Return a path relative to the folder of all runs."""
    return path.resolve().relative_to(runs.resolve()).as_posix()


def _measured(folder: Path, recipe: Recipe) -> list[BenchmarkResult]:
    """Return the results of the unlearned model, by step, benchmarks in the recipe's order."""
    order = {benchmark.key: place for place, benchmark in enumerate(recipe.evaluate.benchmarks)}
    found = [read_record(path, BenchmarkResult) for path in (folder / "results").glob("unlearned-*.json")]
    known = [result for result in found if result.benchmark in order]
    return sorted(known, key=lambda result: (result.step, order[result.benchmark]))


def _merged(parts: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Merge mappings; for a repeated name the first one counts."""
    merged: dict[str, Value] = {}
    for part in parts:
        merged = {**merged, **{name: value for name, value in part.items() if name not in merged}}
    return merged


def _halves(
    sweep: Sweep, recipe: Recipe, benchmarks: Sequence[Benchmark], place: Path, results: Sequence[BenchmarkResult]
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the headlines of the half that the rule sees and of the other half, from the stored per-sample rows."""
    seen: list[dict[str, Value]] = []
    unseen: list[dict[str, Value]] = []
    for benchmark, result in zip(benchmarks, results, strict=True):
        rows = read_rows(place / result.samples)
        known = load_result(place, result_name("retain", benchmark))
        retain_model = read_rows(place / known.samples) if known is not None else None
        first = first_half(rows, sweep.seed)
        taken = {id(row) for row in first}
        for found, part in ((seen, first), (unseen, [row for row in rows if id(row) not in taken])):
            found.append(_headlines(benchmark, part, retain_model, recipe))
    return _merged(seen), _merged(unseen)


def _headlines(
    benchmark: Benchmark, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, recipe: Recipe
) -> dict[str, Value]:
    like = None if retain_model is None else matching_rows(retain_model, rows)
    resamples = recipe.evaluate.bootstrap
    return benchmark.headlines(rows, like, resamples=resamples, seed=recipe.seed).headlines


def _final_folder(sweep: Sweep, folder: Path) -> Path:
    """Return the folder for results of the sweep's own benchmarks, which are not part of the run's trajectory."""
    return folder / f"final-{fingerprint([benchmark.spec() for benchmark in sweep.final])}"


def _measure_final(sweep: Sweep, recipe: Recipe, place: Path, runs: Path, summary: RunSummary) -> list[BenchmarkResult]:
    """Measure the checkpoint with the sweep's own benchmarks, once; target and retain model come from the cache."""
    step = summary.selected_step
    saved = [load_result(place, result_name("unlearned", benchmark, step)) for benchmark in sweep.final]
    if None not in saved:
        return [result for result in saved if result is not None]
    run = dataclasses.replace(prepare(recipe, runs), folder=RunDir(place))
    run.folder.create()
    evaluator = Evaluator(
        run.sets,
        run.template,
        recipe.evaluate,
        seed=recipe.seed,
        cache=run.shared / "evaluations",
        dtype=getattr(torch, recipe.model.dtype),
        folder=place,
    )
    retain_model = evaluate_retain_model(run, evaluator, sweep.final)
    evaluate_target(run, evaluator, sweep.final, target_path(run), retain_model)
    model = open_model(run, str((Path(summary.folder) / "checkpoint").resolve()))
    return [
        evaluator.record(
            evaluator.measure(model, benchmark, "the checkpoint"),
            benchmark,
            role="unlearned",
            model="checkpoint",
            retain=rows_of(retain_model, benchmark),
            step=step,
            epoch=summary.selected_epoch,
        )
        for benchmark in sweep.final
    ]
