"""The target and the retain model of a run: fine-tuned here or loaded, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.benchmarks.base import Benchmark
from expunge.config.recipe import Model, Train
from expunge.console import note
from expunge.data.sets import RowSet
from expunge.data.templates import Encoded
from expunge.distributed import broadcast_from_main, world_size
from expunge.locking import locked
from expunge.methods.base import Objective
from expunge.modeling import opening
from expunge.modeling.adapter_loading import AdapterUse
from expunge.modeling.adapters import add_lora, causal_lm
from expunge.modeling.architectures import adapter_of
from expunge.modeling.fsdp import load_on_device
from expunge.modeling.load import build_scratch, check_row_lengths, check_tokenizer, load_model, local_digest
from expunge.modeling.opening import comparable_facts
from expunge.modeling.saved_adapters import SavedAdapter
from expunge.modeling.saving import save_model
from expunge.modeling.step import LossTerms, Step
from expunge.rundir import LOCK, fingerprint
from expunge.runs.context import Run
from expunge.runs.evaluator import Evaluator, Measured, result_name, stored_measurement
from expunge.runs.results import load_result
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.trainer import delete_training_state, train


@dataclass(frozen=True)
class RetainModel:
    """Measurements of the model that never saw the forget set."""

    name: str
    """Folder, hub id or file of stored rows."""
    measured: dict[str, Measured]
    """Benchmark -> per-sample rows."""


_NOT_FINE_TUNED = ("retain_model", "retain_model_revision", "frozen_dtype", "frozen_device", "adapter")
"""Settings of the model that have no effect on a fine-tuning."""


def target_path(run: Run) -> str:
    """Return the folder or hub id of the target, which is fine-tuned first if the recipe has `target:`."""
    recipe = run.recipe
    if recipe.target is None:
        assert recipe.model.name is not None
        return recipe.model.name
    return str(_fine_tuned(run, "target", recipe.target, [run.sets.forget, run.sets.retain, run.sets.always]))


def retain_model_path(run: Run) -> str | None:
    """Return the folder or hub id of the retain model, or the file of its stored rows; None without one."""
    if run.recipe.retain_model is None:
        return run.recipe.model.retain_model
    return str(_fine_tuned(run, "retain model", run.recipe.retain_model, [run.sets.retain, run.sets.always]))


def open_model(
    run: Run,
    name: str,
    *,
    revision: str | None = None,
    training: bool = False,
    adapter: AdapterUse = "unmerged",
    change: Callable[[Any], Any] | None = None,
) -> Any:
    """Load a model for scoring in the recipe's precision, or for training with float32 master weights.

    Args:
        run: The run.
        name: Folder or hub id.
        revision: Revision on the hub.
        training: Whether the weights will be trained.
        adapter: How an adapter is put on its base model.
        change: Applied to the model before it is sharded, such as adding an adapter.
    """
    config = run.recipe.model
    return opening.open_model(
        config, name, run.tokenizer, revision=revision, dtype=_dtype(config, training), adapter=adapter, change=change
    )


def open_target(
    run: Run,
    path: str,
    *,
    training: bool = False,
    adapter: AdapterUse | None = None,
    change: Callable[[Any], Any] | None = None,
) -> Any:
    """Load the target as `open_model` does; an adapter is merged or stacked as the recipe states."""
    adapter = adapter or run.recipe.model.adapter or "merged"
    return open_model(run, path, revision=run.target_revision, training=training, adapter=adapter, change=change)


def open_unsharded(run: Run, name: str, *, revision: str | None = None, training: bool = False) -> Any:
    """Load a full copy of a model in every process, also with FSDP: for what methods prepare, and for weight edits.

    An adapter is merged into the weights.
    """
    config, dtype = run.recipe.model, _dtype(run.recipe.model, training)
    model = load_model(name, config=config, revision=revision, dtype=dtype, device=run.device, adapter="merged")
    check_tokenizer(causal_lm(model), run.tokenizer, name)
    return model


def start_adapter(run: Run) -> SavedAdapter | None:
    """Return the adapter checkpoint that is the target; None if the target is a full model."""
    return adapter_of(run.recipe.model) if run.recipe.target is None else None


def _dtype(config: Model, training: bool) -> torch.dtype:
    # A low learning rate would vanish in half-precision weights; with LoRA only the adapter is trained.
    return torch.float32 if training and config.lora is None else getattr(torch, config.dtype)


def evaluate_retain_model(run: Run, evaluator: Evaluator, benchmarks: Sequence[Benchmark]) -> RetainModel | None:
    """Measure the retain model, or read its stored rows, and record the result; None without a retain model."""
    path = retain_model_path(run)
    if path is None:
        return None
    measured: dict[str, Measured] = {}
    model, revision = None, run.recipe.model.retain_model_revision
    for benchmark in benchmarks:
        if path.endswith(".json"):
            rows = stored_measurement(benchmark, Path(path), comparable_facts(run.template, run.model_config))
        else:
            if model is None:
                model = open_model(run, path, revision=revision)
            rows = evaluator.measure(model, benchmark, "the retain model")
        measured[benchmark.key] = rows
        if load_result(run.folder.path, result_name("retain", benchmark)) is None:
            evaluator.record(rows, benchmark, role="retain", model=path, retain=rows)
    return RetainModel(path, measured)


def evaluate_target(
    run: Run, evaluator: Evaluator, benchmarks: Sequence[Benchmark], path: str, retain: RetainModel | None
) -> None:
    """Measure the model before unlearning and record the results."""
    model = None
    for benchmark in benchmarks:
        if load_result(run.folder.path, result_name("target", benchmark)) is not None:
            continue
        if model is None:
            model = open_target(run, path)
        measured = evaluator.measure(model, benchmark, "the target")
        evaluator.record(measured, benchmark, role="target", model=path, retain=rows_of(retain, benchmark))


def rows_of(retain: RetainModel | None, benchmark: Benchmark) -> Measured | None:
    """Return the retain model's measurement with a benchmark; None where it was not measured."""
    return None if retain is None else retain.measured.get(benchmark.key)


def _fine_tuned(run: Run, role: str, config: Train, sets: Sequence[RowSet | None]) -> Path:
    """Fine-tune the base model on some sets, once for all runs that need the same model.

    Returns:
        Folder of the model.
    """
    recipe = run.recipe
    rows = RowSet("train", tuple(row for rows in sets if rows is not None for row in rows))
    facts = {
        "model": recipe.model.model_dump(mode="json", exclude={*_NOT_FINE_TUNED, "lora"}),
        "digest": local_digest(recipe.model.name),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "train": config.model_dump(mode="json", exclude={"report_to"}),
        "rows": rows.hash,
        "seed": recipe.seed,
    }
    folder = run.shared / f"model-{fingerprint(facts)}"
    path = folder / "model"
    if not broadcast_from_main(path.is_dir()):
        with locked(folder / LOCK, f"the {role} in {folder}", wait=True):
            # Another run may have made it while this one waited.
            if not broadcast_from_main(path.is_dir()):
                _fine_tune_base(run, role, config, rows, folder)
    return path


def _fine_tune_base(run: Run, role: str, config: Train, rows: RowSet, folder: Path) -> None:
    recipe = run.recipe
    note(f"Training the {role} on {len(rows)} rows ({folder}).")
    if (scratch := recipe.model.scratch) is not None:
        model = load_on_device(
            lambda device: build_scratch(scratch, run.tokenizer, recipe.seed, recipe.model.attention).to(device),
            run.device,
        )
    else:
        assert recipe.model.name is not None
        model = open_model(
            run,
            recipe.model.name,
            revision=recipe.model.revision,
            training=True,
            adapter="merged",
            # LoRA keeps the base weights in half precision, but here all weights are trained.
            change=lambda model: model.float() if recipe.model.lora is not None else model,
        )
    _train_and_save(run, f"Training the {role}", model, run.template.encode_set(rows), config, folder)


def fine_tune_target(run: Run, target: str, name: str, rows: list[Encoded], config: Train, exact: bool = False) -> Any:
    """Fine-tune the target further, once for all runs that need the same model, and load the result.

    With LoRA in the recipe an adapter is trained and merged, so that this needs no more memory than unlearning.

    Args:
        run: The run.
        target: Folder or hub id of the target.
        name: Name of the result in messages and in the folder of shared models.
        rows: Encoded rows to train on.
        config: The training.
        exact: Load the result in float32 for weight arithmetic, instead of the recipe's precision for scoring.
    """
    facts = {
        "target": [local_digest(target) or target, run.target_revision],
        "model": run.recipe.model.model_dump(mode="json", exclude={*_NOT_FINE_TUNED, "name"}),
        "train": config.model_dump(mode="json", exclude={"report_to"}),
        "rows": [[row.ids, row.answer_start, row.labels] for row in rows],
        "seed": run.recipe.seed,
    }
    folder = run.shared / f"{name}-{fingerprint(facts)}"
    path = folder / "model"
    if not broadcast_from_main(path.is_dir()):
        with locked(folder / LOCK, f"the {name} model in {folder}", wait=True):
            if not broadcast_from_main(path.is_dir()):
                _fine_tune_more(run, target, name, rows, config, folder)
    return open_unsharded(run, str(path.resolve()), training=exact)


def _fine_tune_more(run: Run, target: str, name: str, rows: list[Encoded], config: Train, folder: Path) -> None:
    lora = run.recipe.model.lora
    model = open_target(
        run,
        target,
        training=True,
        # The result is saved with all weights.
        adapter="merged",
        change=lambda model: model if lora is None else add_lora(model, lora, run.recipe.seed),
    )
    _train_and_save(run, f"Training {name}", model, rows, config, folder)


def _train_and_save(run: Run, title: str, model: Any, rows: list[Encoded], config: Train, folder: Path) -> None:
    check_row_lengths(causal_lm(model), {"train": rows})
    job = Job(
        title=title,
        model=model,
        plan=BatchPlan.of(
            config, {"train": rows}, None, pad_id=run.pad_id, world_size=world_size(), seed=run.recipe.seed
        ),
        objective=Objective(fine_tuning),
        config=config,
        folder=folder,
        seed=run.recipe.seed,
        bf16=run.recipe.model.dtype == "bfloat16",
        fp16=run.recipe.model.dtype == "float16",
        gradient_checkpointing=run.recipe.model.gradient_checkpointing,
    )
    train(job)
    save_model(model, run.tokenizer, folder / "model", merged=True)
    delete_training_state(folder)


def fine_tuning(step: Step) -> LossTerms:
    """Return the cross-entropy of the training answers."""
    return LossTerms({"nll": step.nll("train")})
