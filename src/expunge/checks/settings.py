"""Checks of a recipe's settings that read neither model nor data, quick enough for the start of every run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from expunge.checks.report import CheckReport, run_checks
from expunge.config.defaults import changed
from expunge.config.load import parse_recipe
from expunge.config.recipe import FilesData, Recipe, Train
from expunge.errors import ConfigError, IncompatibleError, UserError, nearest


def check_settings(recipe: Recipe, here: bool = True) -> CheckReport:
    """Check everything in a recipe that needs neither its model nor its rows.

    Args:
        recipe: The recipe.
        here: Whether it will run on this machine, so that the packages it needs must be installed.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("settings", functools.partial(check_resolved, recipe)),
        ("method", functools.partial(check_method, recipe)),
        ("selection", functools.partial(check_selection, recipe)),
        ("reference copy", functools.partial(check_reference_copy, recipe)),
    ]
    trainings = {"train": recipe.train, "target": recipe.target, "retain_model": recipe.retain_model}
    trainings |= {f"method.{name}": tuning.train for name, tuning in recipe.method.needs().trainings.items()}
    for section, train in trainings.items():
        if train is not None:
            checks.append((f"{section} arguments", functools.partial(check_training, recipe, section, train)))
    return CheckReport(recipe=recipe.name, items=run_checks(checks, here))


def check_resolved(recipe: Recipe) -> str:
    """Check that the resolved recipe loads back to the same recipe, and count its settings.

    Raises:
        IncompatibleError: It does not.
    """
    resolved = recipe.resolved()
    if parse_recipe(resolved).fingerprint() != recipe.fingerprint():
        raise IncompatibleError("the resolved recipe does not load back to the same recipe.")

    def count(value: object) -> int:
        if isinstance(value, dict):
            return sum(count(item) for item in value.values())
        return sum(count(item) for item in value) if isinstance(value, list) else 1

    return f"{count(resolved)} settings with known keys and valid types"


def check_method(recipe: Recipe) -> str:
    """Check that the method's files, sets, adapter and reference are available.

    Raises:
        UserError: One of them is not.
    """
    method, data = recipe.method, recipe.data
    needs = method.needs()
    available = {"forget", "retain", *needs.created}
    if isinstance(data, FilesData):
        named = {name for name in ("retain", "holdout") if getattr(data, name) is not None}
        available = {"forget", *named, *needs.created}
    missing = [name for name in needs.sets if name not in available]
    if missing:
        raise IncompatibleError(
            f"{method.name} needs the set {', '.join(missing)}, which the data does not have.",
            fix=f"Add data.{missing[0]}, or use settings that do not need it (method.retain_weight=0).",
        )
    method.check_files()
    if needs.adapter_parts and recipe.model.lora is None:
        raise IncompatibleError(
            f"{method.name} with these settings starts a LoRA adapter from parts of the weights, but the recipe has no "
            "adapter.",
            fix="Set model.lora={rank: 8}, or method.fila=false.",
        )
    if needs.adapter_parts and recipe.model.adapter == "stacked":
        raise IncompatibleError(
            f"{method.name} with these settings starts a LoRA adapter from parts of the weights, to which a stacked "
            "adapter does not belong.",
            fix="Set model.adapter=merged, or method.fila=false.",
        )
    if needs.adapter_parts and needs.reference:
        raise IncompatibleError(
            f"{method.name} with these settings moves parts of the weights into the adapter, so the target is not "
            "available as the reference at every step.",
            fix="Set method.retain=nll, or method.fila=false.",
        )
    reference = "; the target as reference" if needs.reference or needs.reference_logp else ""
    return f"{method.name} works on {' and '.join(needs.sets)}{reference}"


def check_reference_copy(recipe: Recipe) -> str:
    """Check precision and device of the frozen copy of the target, if the loss needs one at every step.

    Raises:
        UserError: A setting has no effect, or the copy cannot be where or what it should be.
    """
    from expunge.distributed import fsdp_enabled, world_size
    from expunge.modeling.load import frozen_device

    model = recipe.model
    custom = changed(model, "frozen_dtype", "frozen_device")
    reason = ""
    if recipe.train is None or recipe.method.needs().reference is not True:
        reason = f"{recipe.method.name} with these settings needs no copy of the target"
    elif model.lora is not None:
        reason = "with model.lora the reference is the model with its adapter off"
    if custom and (reason or fsdp_enabled()):
        reason = reason or "with FSDP the copy is sharded like the model"
        raise IncompatibleError(f"model.{custom[0]} has no effect: {reason}.", fix="Leave it out.")
    if model.frozen_device is not None and world_size() > 1:
        raise IncompatibleError(
            f"model.frozen_device: {world_size()} processes would all have their copy on {model.frozen_device}.",
            fix="Leave it out, or start one process.",
        )
    if model.attention == "flash_attention_2" and (model.frozen_dtype == "float32" or model.frozen_device == "cpu"):
        raise IncompatibleError(
            f"model.{custom[-1]}: flash attention, which the copy uses too, needs half precision and a GPU.",
            fix="Leave it out, or set model.attention=sdpa.",
        )
    frozen_device(model)
    if reason:
        return "none"
    return "in float32, sharded" if fsdp_enabled() else f"in {model.frozen_dtype or model.dtype}"


def check_selection(recipe: Recipe) -> str:
    """Check that the rule for selecting an epoch has the retain model that it needs.

    Raises:
        IncompatibleError: The rule uses a headline that needs a retain model, and the recipe has none.
    """
    rule = recipe.evaluate.rule
    labels = {name: label for benchmark in recipe.evaluate.benchmarks for name, label in benchmark.labels().items()}
    if recipe.retain_model is not None or recipe.model.retain_model is not None:
        return rule.words("epoch")
    without = [name for name, label in labels.items() if label.needs_retain_model]
    for name in rule.needs:
        if name in without:
            raise IncompatibleError(
                f"evaluate.select is '{rule.text}', and {name} needs a retain model, which this recipe lacks.",
                fix="Set model.retain_model (a retain model or its log), add retain_model: (how to train one), "
                "or set evaluate.select=last.",
            )
    return f"{rule.words('epoch')}{f'; {without[0]} needs a retain model' if without else ''}"


def check_training(recipe: Recipe, section: str, train: Train) -> str:
    """Check a training's settings with transformers, exactly as the trainer passes them.

    Args:
        recipe: The recipe.
        section: Name of the training in the recipe, such as 'train' or 'method.train'.
        train: Its settings.

    Raises:
        UserError: The optimiser, a tracker or an entry of trainer_extra is unknown.
    """
    import torch
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.training_args import OptimizerNames

    from expunge.data.templates import Encoded
    from expunge.training import arguments
    from expunge.training.batching import BatchPlan
    from expunge.training.job import Job
    from expunge.training.optimizer import OPTIMIZERS

    optimizers = [*OPTIMIZERS, *(item.value for item in OptimizerNames)]
    if train.optimizer not in optimizers:
        raise UserError(
            f"{section}.optimizer: transformers has no optimizer '{train.optimizer}'.",
            fix=_completions(train.optimizer, optimizers),
        )
    for tracker in set(train.report_to) - {"all", "none"}:
        if tracker not in INTEGRATION_TO_CALLBACK:
            raise UserError(
                f"{section}.report_to: transformers has no tracker '{tracker}'.",
                fix=nearest(tracker, INTEGRATION_TO_CALLBACK),
            )
    # Longer than any warm-up, which is checked once the number of rows is known.
    endless = train.model_copy(update={"epochs": None, "steps": 1 << 30})
    plan = BatchPlan.of(endless, {"forget": [Encoded((0,), 0)]}, None, pad_id=0, world_size=1, seed=0)
    # Nothing is trained, so a model of one weight on the CPU is enough.
    job = Job(
        title=section,
        model=torch.nn.Linear(1, 1),
        plan=plan,
        objective=lambda step: None,  # type: ignore[arg-type,return-value]
        config=train,
        folder=Path(),
        seed=recipe.seed,
    )
    try:
        arguments.training_arguments(job, Path("state"))
    except ConfigError as error:
        raise UserError("; ".join(error.problems).replace("train.trainer_extra", f"{section}.trainer_extra")) from error
    except (ValueError, TypeError, ImportError) as error:
        message = " ".join(str(error).split())[:300]
        raise UserError(f"{section}: transformers rejects these settings: {message}") from error
    extra = f", {len(train.trainer_extra)} of them from trainer_extra" if train.trainer_extra else ""
    return f"accepted by transformers.TrainingArguments{extra}"


def _completions(name: str, options: Sequence[str]) -> str:
    """Return advice for an unknown name: the options that begin with it, or else the nearest one."""
    longer = [option for option in options if option.startswith(name)]
    return f"Allowed: {', '.join(longer)}." if longer else nearest(name, options)
