"""The unlearning stage: train the target with a method, or edit its weights, and measure the result."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.console import is_main_process, note
from expunge.data.sets import RowSet
from expunge.data.templates import Encoded
from expunge.distributed import broadcast_from_main, fsdp_enabled, refuse_fsdp, wait, world_size
from expunge.errors import IncompatibleError
from expunge.methods.base import Method, Preparation
from expunge.modeling.adapters import causal_lm, load_initial_adapter, prepare_training, set_adapter_weights
from expunge.modeling.load import check_row_lengths, frozen_device
from expunge.modeling.reference import make_reference, reference_logp
from expunge.modeling.saved_adapters import is_low_rank
from expunge.modeling.saving import save_model
from expunge.records import BenchmarkResult
from expunge.rundir import write_atomic
from expunge.runs.checkpoints import CheckpointSelector, Edit, StopEarly
from expunge.runs.context import Run
from expunge.runs.evaluator import Evaluator
from expunge.runs.models import RetainModel, fine_tune_target, open_target, open_unsharded, start_adapter
from expunge.training.batching import BatchPlan
from expunge.training.callbacks import StoppedEarly
from expunge.training.job import Job
from expunge.training.trainer import delete_training_state, train

ADAPTER_START = "prepared/adapter"


def unlearn(
    run: Run,
    evaluator: Evaluator,
    target: str,
    retain_model: RetainModel | None,
    stop_early: StopEarly | None = None,
) -> list[BenchmarkResult]:
    """Train the target, measure it after each epoch, and save the selected epoch to `checkpoint/`.

    An interrupted training resumes from its last saved state.

    Args:
        run: The run.
        evaluator: Measures the model in training.
        target: Folder or hub id of the target.
        retain_model: Measurements of the retain model; None without one.
        stop_early: Called after each epoch but the last; True stops the training.

    Returns:
        All measurements, by step.

    Raises:
        StoppedEarly: `stop_early` returned True; the measurements stay, the weights do not.
    """
    recipe, method = run.recipe, run.recipe.method
    if recipe.train is None:
        return _edit(run, evaluator, target, retain_model)
    needs = method.needs()
    if needs.adapter_parts:
        refuse_fsdp(method.name, "initialises its adapter from parts of the full weights")
    # Before the target is loaded, because a method may load models of its own to prepare its data.
    prepared = method.prepare(_preparation(run, target))
    model = _open_for_training(run, target)
    sets = _encoded_sets(run, method, prepared)
    check_row_lengths(causal_lm(model), sets)
    plan = BatchPlan.of(recipe.train, sets, needs, pad_id=run.pad_id, world_size=world_size(), seed=recipe.seed)
    scalars = {name: _reference_scalars(run, model, name, sets[name]) for name in needs.reference_logp}
    adapter_start = None
    if needs.adapter_parts:
        adapter_start = _adapter_start(run, model, sets)
        load_initial_adapter(model, adapter_start)
    selector = CheckpointSelector(run, evaluator, retain_model, model, plan, _saving(run, model, adapter_start))
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
        measure=selector.measure if recipe.evaluate.every_epoch else None,
        measured=selector.measured,
        give_up=None if stop_early is None else lambda step: broadcast_from_main(stop_early(selector.progress(step))),
        gradient_checkpointing=recipe.model.gradient_checkpointing,
    )
    try:
        train(job)
    except StoppedEarly:
        selector.abandon()
        raise
    if not recipe.evaluate.every_epoch:
        selector.measure(plan.steps)
    selector.finish()
    delete_training_state(run.folder.path)
    return selector.results()


def _open_for_training(run: Run, target: str) -> Any:
    """Load the target, add an adapter if the recipe has one, and freeze what the method does not train."""
    recipe, saved = run.recipe, start_adapter(run)
    revision = run.target_revision if saved is None else saved.base_revision
    return open_target(
        run,
        target,
        training=True,
        change=lambda model: prepare_training(model, recipe.model.lora, recipe.seed, recipe.method.trainable, revision),
    )


def _saving(run: Run, model: Any, adapter_start: Path | None) -> Callable[[Path], None]:
    """Return the function that saves the model in training to a folder.

    A model with an adapter is saved as an adapter of the model that it was loaded from. If that is an adapter itself,
    both are joined to one adapter of the common base model; if they cannot be, the full merged weights are saved.
    """
    saved = start_adapter(run) if run.recipe.model.lora is not None else None
    if saved is not None and not is_low_rank(saved):
        return lambda path: save_model(model, run.tokenizer, path, merged=True)
    return lambda path: save_model(model, run.tokenizer, path, adapter_start, joined=saved)


def _edit(run: Run, evaluator: Evaluator, target: str, retain_model: RetainModel | None) -> list[BenchmarkResult]:
    """Change the target's weights without training; the whole edit counts as one step."""
    recipe = run.recipe
    model = open_unsharded(run, target, revision=run.target_revision, training=True)
    recipe.method.apply(model, _preparation(run, target))
    selector = CheckpointSelector(run, evaluator, retain_model, model, Edit(), _saving(run, model, None))
    selector.measure(1)
    selector.finish()
    return selector.results()


def _preparation(run: Run, target: str) -> Preparation:
    return Preparation(
        sets=run.sets,
        template=run.template,
        folder=run.folder / "prepared",
        seed=run.recipe.seed,
        open_target=lambda: open_unsharded(run, target, revision=run.target_revision),
        batch_tokens=run.recipe.evaluate.batch_tokens,
        fine_tune=lambda name, rows, config, exact=False: fine_tune_target(run, target, name, rows, config, exact),
    )


def _encoded_sets(run: Run, method: Method, prepared: Mapping[str, RowSet | list[Encoded]]) -> dict[str, list[Encoded]]:
    available: dict[str, RowSet | list[Encoded] | None] = {
        "forget": run.sets.forget,
        "retain": run.sets.retain,
        "holdout": run.sets.holdout,
        **prepared,
    }
    encoded = {}
    for name in method.needs().sets:
        rows = available.get(name)
        if rows is None:
            raise IncompatibleError(
                f"the method {method.name} needs a {name} set, and this data has none.",
                fix=f"Add data.{name}, or choose a method or settings that work without it (retain_weight: 0).",
            )
        encoded[name] = rows if isinstance(rows, list) else run.template.encode_set(rows)
    return encoded


def _adapter_start(run: Run, model: Any, sets: Mapping[str, Sequence[Encoded]]) -> Path:
    """Return the folder of the adapter's initial values; they are saved so that a resumed run starts from the same."""
    path: Path = run.folder / ADAPTER_START
    if not broadcast_from_main(path.is_dir()):
        set_adapter_weights(model, run.recipe.method.adapter_parts(model, sets, run.recipe.seed))
        save_model(model, run.tokenizer, path)
    return path


def _reference(run: Run, model: Any, sets: dict[str, list[Encoded]], plan: BatchPlan) -> Any:
    """Return the frozen policy that the loss compares with at every step, if it needs one."""
    config = run.recipe.model
    return make_reference(
        model,
        run.recipe.method.needs().reference,
        sets,
        run.pad_id,
        folder=run.folder.path,
        visited_rows=plan.visits,
        # FSDP decides the precision of a sharded copy.
        dtype=None if fsdp_enabled() else getattr(torch, config.frozen_dtype or config.dtype),
        device=frozen_device(config),
    )


def _reference_scalars(run: Run, model: Any, name: str, rows: list[Encoded]) -> np.ndarray[Any, Any]:
    """Return the target's log-probability of each row; computed once, so that a resumed run has the same values."""
    path: Path = run.folder / f"reference_logp/{name}.npy"
    if not broadcast_from_main(path.is_file()):
        note(f"Computing the target's log-probability of {len(rows)} {name} rows, once.")
        values = reference_logp(model, rows, run.pad_id)
        if is_main_process():
            buffer = io.BytesIO()
            np.save(buffer, values, allow_pickle=False)
            write_atomic(path, buffer.getvalue())
        wait()
    return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
