"""The target, which knows too much, and the retain model, which never saw the forget set: trained here or loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.benchmarks.base import Benchmark, SampleRow
from expunge.config.recipe import Train
from expunge.console import note
from expunge.data.sets import RowSet
from expunge.data.templates import Encoded, Template
from expunge.distributed import broadcast_from_main, world_size
from expunge.errors import IncompatibleError
from expunge.methods.base import Objective
from expunge.modeling.adapters import add_lora, causal_lm
from expunge.modeling.fsdp import load_on_device
from expunge.modeling.load import build_scratch, check_pair, check_rows, load_model, load_tokenizer, local_digest
from expunge.modeling.step import LossTerms, Step
from expunge.records import BenchmarkResult
from expunge.rundir import fingerprint
from expunge.runs.context import Run, joined, save_model
from expunge.runs.evaluator import Evaluator, Measured, make_result, say, store, stored
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.trainer import delete_training_state, train


@dataclass(frozen=True)
class RetainModel:
    """Per-sample records of the model that never saw the forget set, by benchmark."""

    name: str
    measured: dict[str, Measured]


_NOT_FINE_TUNED = ("retain_model", "retain_model_revision", "frozen_dtype", "frozen_device")
"""Settings of the model that a fine-tuning does not look at."""


def target_path(run: Run) -> str:
    """Folder or hub id of the target, fine-tuned first where the recipe says so."""
    recipe = run.recipe
    if recipe.target is None:
        assert recipe.model.name is not None
        return recipe.model.name
    rows = joined("train", [run.sets.forget, run.sets.retain, run.sets.always])
    return str(_fine_tuned(run, "target", recipe.target, rows))


def retain_model_path(run: Run) -> str | None:
    """Folder or hub id of the retain model, or the file of its stored records; None without one."""
    if run.recipe.retain_model is None:
        return run.recipe.model.retain_model
    rows = joined("train", [run.sets.retain, run.sets.always])
    return str(_fine_tuned(run, "retain model", run.recipe.retain_model, rows))


def open_model(
    run: Run,
    name: str,
    *,
    revision: str | None = None,
    training: bool = False,
    change: Callable[[Any], Any] | None = None,
) -> Any:
    """Load a model for scoring in the recipe's precision, or for training with float32 master weights.

    Args:
        run: The run.
        name: Folder or hub id.
        revision: Revision on the hub.
        training: Whether the weights will be trained.
        change: What is done to the model before it is shared out over processes, such as adding an adapter.
    """

    def make(device: torch.device) -> Any:
        model = open_whole(run, name, revision=revision, training=training, device=device)
        return model if change is None else change(model)

    return load_on_device(make, run.device)


def open_whole(
    run: Run, name: str, *, revision: str | None = None, training: bool = False, device: torch.device | None = None
) -> Any:
    """A model that every process has for itself, also with FSDP: for what methods prepare, and for edits."""
    config = run.recipe.model
    dtype = torch.float32 if training and config.lora is None else getattr(torch, config.dtype)
    model = load_model(name, config=config, revision=revision, dtype=dtype, device=device or run.device)
    check_pair(model, run.tokenizer, name)
    return model


def evaluate_retain_model(run: Run, evaluator: Evaluator, benchmarks: list[Benchmark]) -> RetainModel | None:
    """Measure the retain model, or read its stored records; its result is kept beside the target's."""
    path = retain_model_path(run)
    if path is None:
        return None
    found: dict[str, Measured] = {}
    model = None
    for benchmark in benchmarks:
        name = f"retain-{benchmark.name}"
        if path.endswith(".json"):
            measured = Measured(*benchmark.read_stored(Path(path)), model_hash="", seconds=0.0)
        else:
            if model is None:
                _check_same_tokens(run, path)
                model = open_model(run, path, revision=run.recipe.model.retain_model_revision)
            measured = evaluator.measure(model, benchmark, "the retain model")
        found[benchmark.name] = measured
        if stored(run.folder.path, name) is None:
            result = make_result(
                benchmark,
                measured,
                role="retain",
                model=path,
                retain_model=measured.rows,
                resamples=run.recipe.evaluate.bootstrap,
                seed=run.recipe.seed,
            )
            say(store(run.folder.path, name, result, measured.rows), "Retain model")
    return RetainModel(path, found)


def _check_same_tokens(run: Run, path: str) -> None:
    """Refuse a retain model whose own tokenizer writes other tokens than the target's."""
    config = run.recipe.model
    if run.recipe.retain_model is not None:
        return
    own = load_tokenizer(path, config.retain_model_revision, config.trust_remote_code)
    if Template(own, run.recipe.prompt, run.template.max_length).fingerprint != run.template.fingerprint:
        raise IncompatibleError(
            f"the retain model {path} and the target have different tokenizers or prompts, so they do not compare.",
            fix="Give a retain model that was fine-tuned from the same start model, with the same prompt.",
        )


def evaluate_target(
    run: Run, evaluator: Evaluator, benchmarks: list[Benchmark], path: str, retain_model: RetainModel | None
) -> dict[str, BenchmarkResult]:
    """Measure the model before unlearning."""
    results: dict[str, BenchmarkResult] = {}
    model = None
    for benchmark in benchmarks:
        name = f"target-{benchmark.name}"
        result = stored(run.folder.path, name)
        if result is None:
            if model is None:
                model = open_model(run, path, revision=run.recipe.model.revision)
            measured = evaluator.measure(model, benchmark, "the target")
            result = make_result(
                benchmark,
                measured,
                role="target",
                model=path,
                retain_model=checked_retain_model(benchmark, measured.rows, measured.settings, retain_model),
                resamples=run.recipe.evaluate.bootstrap,
                seed=run.recipe.seed,
            )
            say(store(run.folder.path, name, result, measured.rows), "Target")
        results[benchmark.name] = result
    return results


def checked_retain_model(
    benchmark: Benchmark, rows: list[SampleRow], settings: dict[str, Any], retain_model: RetainModel | None
) -> list[SampleRow] | None:
    """The retain model's rows, once it is sure that they belong to the same rows, prompt and model family."""
    if retain_model is None or benchmark.name not in retain_model.measured:
        return None
    other = retain_model.measured[benchmark.name]
    benchmark.check_retain_model(rows, other.rows, settings, other.settings)
    return other.rows


def _fine_tuned(run: Run, role: str, config: Train, rows: RowSet) -> Path:
    """Train the start model on rows, once for all runs that ask for the same."""
    recipe = run.recipe
    model_settings = recipe.model.model_dump(mode="json", exclude={*_NOT_FINE_TUNED, "lora"})
    facts = {
        "model": model_settings,
        "digest": local_digest(recipe.model.name),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "train": config.model_dump(mode="json", exclude={"report_to"}),
        "rows": rows.hash,
        "seed": recipe.seed,
    }
    folder = run.shared / f"model-{fingerprint(facts)}"
    place = folder / "model"
    if broadcast_from_main(place.is_dir()):
        return place
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
            change=lambda model: model.float() if recipe.model.lora is not None else model,
        )
    _train_and_save(run, f"Training the {role}", model, run.template.encode_set(rows), config, folder)
    return place


def fine_tune_target(run: Run, target: str, name: str, rows: list[Encoded], config: Train, exact: bool = False) -> Any:
    """Train the target further on rows, once for all runs that ask for the same, and load the result.

    With LoRA in the recipe an adapter is trained and merged, so that it takes no more memory than unlearning.
    """
    revision = run.recipe.model.revision if run.recipe.target is None else None
    facts = {
        "target": [local_digest(target) or target, revision],
        "model": run.recipe.model.model_dump(mode="json", exclude={*_NOT_FINE_TUNED, "name"}),
        "train": config.model_dump(mode="json", exclude={"report_to"}),
        "rows": [[row.ids, row.answer_start, row.labels] for row in rows],
        "seed": run.recipe.seed,
    }
    folder = run.shared / f"{name}-{fingerprint(facts)}"
    if not broadcast_from_main((folder / "model").is_dir()):
        lora = run.recipe.model.lora
        model = open_model(
            run,
            target,
            revision=revision,
            training=True,
            change=lambda model: model if lora is None else add_lora(model, lora, run.recipe.seed),
        )
        _train_and_save(run, f"Training {name}", model, rows, config, folder)
        del model
    return open_whole(run, str((folder / "model").resolve()), training=exact)


def _train_and_save(run: Run, title: str, model: Any, rows: list[Encoded], config: Train, folder: Path) -> None:
    check_rows(causal_lm(model), {"train": rows})
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
    """Cross-entropy of the training answers."""
    return LossTerms({"nll": step.nll("train")})
