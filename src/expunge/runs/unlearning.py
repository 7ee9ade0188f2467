"""The unlearning stage: train the target with a method, measure every epoch, keep the epoch that the rule chooses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.benchmarks.base import Benchmark
from expunge.config.recipe import Evaluate
from expunge.console import is_main_process, note
from expunge.data.sets import RowSet
from expunge.data.templates import Encoded
from expunge.distributed import broadcast_from_main, fsdp_enabled, refuse_fsdp, wait, world_size
from expunge.errors import IncompatibleError
from expunge.methods.base import Method, Preparation
from expunge.modeling.adapters import add_lora, causal_lm, fill_adapter, start_from
from expunge.modeling.load import check_rows, frozen_device
from expunge.modeling.reference import make_reference, reference_logp
from expunge.records import BenchmarkResult
from expunge.rundir import replace_folder, write_atomic
from expunge.runs.context import Run, save_model
from expunge.runs.evaluator import Evaluator, make_result, say, store, stored
from expunge.runs.models import RetainModel, checked_retain_model, fine_tune_target, open_model, open_whole
from expunge.training.batching import BatchPlan
from expunge.training.callbacks import StoppedEarly
from expunge.training.job import Job
from expunge.training.trainer import delete_training_state, train

RULES = {
    "last": "the last epoch",
    "forget_quality": "the epoch with the highest forget quality",
    "utility_at_quality": "the epoch with the highest model utility among those whose forget quality reaches the floor",
}
ADAPTER_START = "prepared/adapter"
STOPPED = "stopped.json"
"""Marker of a run whose unlearning was ended early: it has no checkpoint, and its last epoch is not a result."""


@dataclass(frozen=True)
class TrainingProgress:
    """How far an unlearning has come."""

    folder: Path
    """The run's folder."""
    step: int
    steps: int
    """Steps of the whole training."""
    results: list[BenchmarkResult]
    """Every measurement so far, by step."""


StopEarly = Callable[[TrainingProgress], bool]
"""Decides after each epoch whether the rest is not worth its cost."""


def unlearn(
    run: Run,
    evaluator: Evaluator,
    benchmarks: list[Benchmark],
    target: str,
    retain_model: RetainModel | None,
    give_up: StopEarly | None = None,
) -> list[BenchmarkResult]:
    """Train, measure and save; returns every measurement in order of steps.

    The chosen model is in `checkpoint/`. A run that was cut off goes on from its last saved state.

    Raises:
        StoppedEarly: `give_up` said so; the measurements stay, the weights do not.
    """
    recipe, method = run.recipe, run.recipe.method
    if recipe.train is None:
        return _edit(run, evaluator, benchmarks, target, retain_model)
    needs = method.needs()
    if needs.adapter_parts:
        refuse_fsdp(method.name, "starts its adapter from parts of whole weights")
    # Before the model is loaded: what a method prepares may need models of its own.
    made = method.prepare(_preparation(run, target))
    model = _open_for_training(run, target)
    sets = _encoded_sets(run, method, made)
    check_rows(causal_lm(model), sets)
    plan = BatchPlan.of(recipe.train, sets, needs, pad_id=run.pad_id, world_size=world_size(), seed=recipe.seed)
    scalars = {name: _reference_scalars(run, model, name, sets[name]) for name in needs.reference_logp}
    if needs.adapter_parts:
        start_from(model, _adapter_start(run, model, sets))
    keeper = CheckpointSelector(run, evaluator, benchmarks, retain_model, model, plan)
    job = Job(
        title="Unlearning",
        model=model,
        plan=plan,
        objective=method.objective(plan.steps, plan.num_rows / plan.batch_size),
        config=recipe.train,
        folder=run.folder.path,
        seed=recipe.seed,
        bf16=recipe.model.dtype == "bfloat16",
        fp16=recipe.model.dtype == "float16",
        reference_logp=scalars,
        reference=_reference(run, model, sets, plan),
        measure=keeper.measure if recipe.evaluate.every_epoch else None,
        measured=keeper.measured,
        give_up=None if give_up is None else lambda step: broadcast_from_main(give_up(keeper.reached(step))),
        gradient_checkpointing=recipe.model.gradient_checkpointing,
    )
    try:
        train(job)
    except StoppedEarly:
        keeper.abandon()
        raise
    if not recipe.evaluate.every_epoch:
        keeper.measure(plan.steps)
    keeper.finish()
    delete_training_state(run.folder.path)
    return keeper.results()


def _open_for_training(run: Run, target: str) -> Any:
    """The target, with a fresh adapter where the recipe asks for one, and gradients where the method trains."""
    recipe, method = run.recipe, run.recipe.method

    def change(model: Any) -> Any:
        if recipe.model.lora is not None:
            model = add_lora(model, recipe.model.lora, recipe.seed)
        _freeze_all_but(model, method.trainable(causal_lm(model)))
        return model

    revision = recipe.model.revision if recipe.target is None else None
    return open_model(run, target, revision=revision, training=True, change=change)


def _edit(
    run: Run, evaluator: Evaluator, benchmarks: list[Benchmark], target: str, retain_model: RetainModel | None
) -> list[BenchmarkResult]:
    """Change the target's weights without training; the whole edit counts as one step."""
    recipe = run.recipe
    model = open_whole(run, target, revision=recipe.model.revision if recipe.target is None else None, training=True)
    recipe.method.apply(model, _preparation(run, target))
    keeper = CheckpointSelector(run, evaluator, benchmarks, retain_model, model, Edit())
    keeper.measure(1)
    keeper.finish()
    return keeper.results()


class Edit:
    """The course of a method that does not train: one step, no pass over the data."""

    steps = 1

    def epoch_of(self, step: int) -> float:
        """No row was passed over."""
        return 0.0

    def epoch_ends(self) -> list[int]:
        """Measured once, at the end."""
        return [1]


class CheckpointSelector:
    """Measures the model after an epoch and keeps the weights of the best epoch so far, by the recipe's rule."""

    def __init__(
        self,
        run: Run,
        evaluator: Evaluator,
        benchmarks: list[Benchmark],
        retain_model: RetainModel | None,
        model: Any,
        plan: BatchPlan | Edit,
    ) -> None:
        self._run, self._evaluator, self._benchmarks = run, evaluator, benchmarks
        self._retain_model, self._model, self._plan = retain_model, model, plan
        self._best = run.folder / "best"
        self._adapter_start = run.folder / ADAPTER_START if run.recipe.method.needs().adapter_parts else None

    def measure(self, step: int) -> None:
        """Measure now, unless this step's results are already on disk; then keep the weights if they lead."""
        for benchmark in self._benchmarks:
            name = _result_name(benchmark, step)
            if stored(self._run.folder.path, name) is None:
                epoch = round(self._plan.epoch_of(step), 4)
                measured = self._evaluator.measure(self._model, benchmark, f"epoch {epoch:g}")
                result = make_result(
                    benchmark,
                    measured,
                    role="unlearned",
                    model="checkpoint",
                    retain_model=checked_retain_model(benchmark, measured.rows, measured.settings, self._retain_model),
                    resamples=self._run.recipe.evaluate.bootstrap,
                    seed=self._run.recipe.seed,
                    step=step,
                    epoch=epoch,
                )
                say(store(self._run.folder.path, name, result, measured.rows), f"Epoch {epoch:g}")
        if self._run.recipe.evaluate.select != "last" and self.selected().step == step:
            save_model(self._model, self._run.tokenizer, self._best, self._adapter_start)

    def measured(self, step: int) -> bool:
        """Whether every benchmark has been run at a step, and the weights kept if they were the best."""
        done = all(stored(self._run.folder.path, _result_name(b, step)) is not None for b in self._benchmarks)
        return done and (self._run.recipe.evaluate.select == "last" or self.selected().step != step)

    def results(self) -> list[BenchmarkResult]:
        """All measurements of the unlearned model, by step."""
        found = []
        for benchmark in self._benchmarks:
            for step in sorted({*self._plan.epoch_ends(), self._plan.steps}):
                result = stored(self._run.folder.path, _result_name(benchmark, step))
                if result is not None:
                    found.append(result)
        return sorted(found, key=lambda result: result.step)

    def selected(self) -> BenchmarkResult:
        """The measurement that the recipe's rule chooses among those made so far."""
        return select(self.results(), self._run.recipe.evaluate)

    def reached(self, step: int) -> TrainingProgress:
        """What there is to decide on after a step."""
        return TrainingProgress(self._run.folder.path, step, self._plan.steps, self.results())

    def abandon(self) -> None:
        """Mark a run that was stopped early and delete its weights; the measurements stay."""
        if is_main_process():
            last = max((result.step for result in self.results()), default=0)
            write_atomic(self._run.folder / STOPPED, json.dumps({"step": last, "steps": self._plan.steps}))
            shutil.rmtree(self._best, ignore_errors=True)
            delete_training_state(self._run.folder.path)
        wait()

    def finish(self) -> None:
        """Put the chosen weights into `checkpoint/`."""
        place = self._run.folder / "checkpoint"
        results = self.results()
        chosen = self.selected().step if results else self._plan.steps
        if chosen == self._plan.steps:
            save_model(self._model, self._run.tokenizer, place, self._adapter_start)
        elif is_main_process() and self._best.is_dir():
            replace_folder(self._best, place)
        wait()
        if is_main_process():
            shutil.rmtree(self._best, ignore_errors=True)
            (self._run.folder / STOPPED).unlink(missing_ok=True)


def select(results: Sequence[BenchmarkResult], config: Evaluate) -> BenchmarkResult:
    """Choose an epoch by rule, on the first benchmark that has the headlines; ties go to the earlier epoch.

    Raises:
        IncompatibleError: The rule needs a number that no benchmark gives, such as forget quality without a
            retain model.
    """
    if config.select == "last":
        return results[-1]

    def point(result: BenchmarkResult, name: str) -> float | None:
        value = result.headlines.get(name)
        return None if value is None else value.point

    scored = [result for result in results if point(result, "forget_quality") is not None]
    if not scored:
        raise IncompatibleError(
            f"evaluate.select is {config.select}, but no benchmark gives forget quality.",
            fix="Set model.retain_model (a retain model or its stored log), or evaluate.select=last.",
        )
    quality: Callable[[BenchmarkResult], float] = lambda result: _log10(result)  # noqa: E731
    if config.select == "forget_quality":
        return max(scored, key=quality)
    passing = [result for result in scored if (point(result, "forget_quality") or 0) >= config.quality_floor]
    if not passing:
        return max(scored, key=quality)
    return max(passing, key=lambda result: point(result, "model_utility") or 0.0)


def rule_in_words(chosen: BenchmarkResult | None, config: Evaluate) -> str:
    """What chose the kept epoch, as it really went."""
    quality = chosen.headlines.get("forget_quality") if chosen else None
    if config.select == "utility_at_quality" and quality is not None:
        if (quality.point or 0.0) < config.quality_floor:
            return f"the epoch with the highest forget quality, since none reached the floor of {config.quality_floor}"
        return f"{RULES[config.select]} of {config.quality_floor}"
    return RULES[config.select]


def _log10(result: BenchmarkResult) -> float:
    return result.headlines["forget_quality"].extra["log10"]


def _result_name(benchmark: Benchmark, step: int) -> str:
    return f"unlearned-{benchmark.name}-{step:06d}"


def _preparation(run: Run, target: str) -> Preparation:
    revision = run.recipe.model.revision if run.recipe.target is None else None
    return Preparation(
        sets=run.sets,
        template=run.template,
        folder=run.folder / "prepared",
        seed=run.recipe.seed,
        open_target=lambda: open_whole(run, target, revision=revision),
        batch_tokens=run.recipe.evaluate.batch_tokens,
        fine_tune=lambda name, rows, config, exact=False: fine_tune_target(run, target, name, rows, config, exact),
    )


def _freeze_all_but(model: Any, names: list[str] | None) -> None:
    """Leave gradients to the named parameters only, so that nothing else is computed, clipped or stored."""
    if names is None:
        return
    chosen = set(names)
    for name, parameter in causal_lm(model).named_parameters():
        parameter.requires_grad_(name in chosen)


def _encoded_sets(run: Run, method: Method, made: Mapping[str, RowSet | list[Encoded]]) -> dict[str, list[Encoded]]:
    available: dict[str, RowSet | list[Encoded] | None] = {
        "forget": run.sets.forget,
        "retain": run.sets.retain,
        "holdout": run.sets.holdout,
        **made,
    }
    encoded = {}
    for name in method.needs().sets:
        rows = available.get(name)
        if rows is None:
            raise IncompatibleError(
                f"the method {method.name} needs a {name} set, and this data has none.",
                fix=f"Add data.{name}, or choose a method or weights that do without it (retain_weight: 0).",
            )
        encoded[name] = rows if isinstance(rows, list) else run.template.encode_set(rows)
    return encoded


def _adapter_start(run: Run, model: Any, sets: Mapping[str, Sequence[Encoded]]) -> Path:
    """The adapter as the method has it start; made once, so that a resumed run starts from the same."""
    place: Path = run.folder / ADAPTER_START
    if not broadcast_from_main(place.is_dir()):
        fill_adapter(model, run.recipe.method.adapter_parts(model, sets, run.recipe.seed))
        save_model(model, run.tokenizer, place)
    return place


def _reference(run: Run, model: Any, sets: dict[str, list[Encoded]], plan: BatchPlan) -> Any:
    """What the loss compares with at every step, if it does."""
    config = run.recipe.model
    return make_reference(
        model,
        run.recipe.method.needs().reference,
        sets,
        run.pad_id,
        folder=run.folder.path,
        chosen=plan.visits,
        # A copy in shards is run as FSDP runs the model.
        dtype=None if fsdp_enabled() else getattr(torch, config.frozen_dtype or config.dtype),
        device=frozen_device(config),
    )


def _reference_scalars(run: Run, model: Any, name: str, rows: list[Encoded]) -> np.ndarray[Any, Any]:
    """The start model's log-probabilities, computed once; a resumed run reads what the first one wrote."""
    import io

    place: Path = run.folder / f"reference_logp/{name}.npy"
    if not broadcast_from_main(place.is_file()):
        note(f"Computing the start model's log-probability of {len(rows)} {name} rows, once.")
        values = reference_logp(model, rows, run.pad_id)
        if is_main_process():
            buffer = io.BytesIO()
            np.save(buffer, values, allow_pickle=False)
            write_atomic(place, buffer.getvalue())
        wait()
    return np.load(place, allow_pickle=False)  # type: ignore[no-any-return]
