"""Checks a recipe for real, on any machine and without weights: everything that would stop the run later."""

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
    """The part of `check` that reads no model and no rows: quick enough to begin every run with.

    Args:
        recipe: The recipe.
        here: Whether it will run on this machine, so that the packages that it needs must be here.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("settings", lambda: _settings(recipe)),
        ("method", lambda: _method(recipe)),
        ("selection", lambda: _selection(recipe)),
        ("start model's copy", lambda: _frozen(recipe)),
    ]
    trainings = {name: getattr(recipe, name) for name in ("train", "target", "retain_model")}
    trainings |= {f"method.{name}": tuning.train for name, tuning in recipe.method.needs().trainings.items()}
    for section, train in trainings.items():
        if train is not None:
            checks.append((f"{section} arguments", functools.partial(check_training, recipe, section, train)))
    return CheckReport(recipe=recipe.name, items=run_checks(checks, here))


def _settings(recipe: Recipe) -> str:
    resolved = recipe.resolved()
    if parse_recipe(resolved).fingerprint() != recipe.fingerprint():
        raise IncompatibleError("the resolved recipe does not load back to the same recipe.")
    return f"{_count(resolved)} settings with known keys and right types"


def _count(value: object) -> int:
    if isinstance(value, dict):
        return sum(_count(item) for item in value.values())
    return sum(_count(item) for item in value) if isinstance(value, list) else 1


def _method(recipe: Recipe) -> str:
    method, data = recipe.method, recipe.data
    needs = method.needs()
    has = {"forget", "retain"}
    if isinstance(data, FilesData):
        has = {"forget"} | {name for name in ("retain", "holdout") if getattr(data, name) is not None}
    lacking = [name for name in needs.sets if name not in has and name not in needs.made]
    if lacking:
        raise IncompatibleError(
            f"{method.name} needs the set {', '.join(lacking)}, which the data does not give.",
            fix=f"Add data.{lacking[0]}, or settings that do without it (method.retain_weight=0).",
        )
    method.check_files()
    if needs.adapter_parts and recipe.model.lora is None:
        raise IncompatibleError(
            f"{method.name} with these settings starts a LoRA adapter from parts of the weights, and there is none.",
            fix="Set model.lora={rank: 8}, or method.fila=false.",
        )
    if needs.adapter_parts and needs.reference:
        raise IncompatibleError(
            f"{method.name} with these settings takes parts out of the weights, so that the start model is not at hand "
            "for a comparison at every step.",
            fix="Set method.retain=nll, or method.fila=false.",
        )
    frozen = "; the target as reference" if needs.reference or needs.reference_logp else ""
    return f"{method.name} works on {' and '.join(needs.sets)}{frozen}"


def _frozen(recipe: Recipe) -> str:
    from expunge.distributed import fsdp_enabled, world_size
    from expunge.modeling.load import frozen_device

    model = recipe.model
    given = changed(model, "frozen_dtype", "frozen_device")
    why = ""
    if recipe.train is None or recipe.method.needs().reference is not True:
        why = f"{recipe.method.name}, with these settings, keeps no copy of the start model"
    elif model.lora is not None:
        why = "with model.lora the start model is the model with its adapter off"
    if given and (why or fsdp_enabled()):
        why = why or "with FSDP the copy is shared out like the model"
        raise IncompatibleError(f"model.{given[0]} has no effect: {why}.", fix="Leave it out.")
    if model.frozen_device is not None and world_size() > 1:
        raise IncompatibleError(
            f"model.frozen_device: {world_size()} processes would all keep their copy on {model.frozen_device}.",
            fix="Leave it out, or start one process.",
        )
    if model.attention == "flash_attention_2" and (model.frozen_dtype == "float32" or model.frozen_device == "cpu"):
        raise IncompatibleError(
            f"model.{given[-1]}: flash attention runs in half precision on a GPU only, and the copy uses it too.",
            fix="Leave it out, or set model.attention=sdpa.",
        )
    frozen_device(model)
    if why:
        return "none"
    return "in float32, in shards" if fsdp_enabled() else f"in {model.frozen_dtype or model.dtype}"


def _selection(recipe: Recipe) -> str:
    config = recipe.evaluate
    has_retain_model = recipe.retain_model is not None or recipe.model.retain_model is not None
    if config.select == "last":
        quality = "" if has_retain_model or not config.benchmarks else "; forget quality needs a retain model"
        return f"the last epoch is kept{quality}"
    if not config.benchmarks:
        raise IncompatibleError(
            f"evaluate.select is {config.select}, but evaluate.benchmarks is empty.",
            fix="Add evaluate.benchmarks=[tofu], or set evaluate.select=last.",
        )
    if not has_retain_model:
        raise IncompatibleError(
            f"evaluate.select is {config.select}, which compares with a retain model, and there is none.",
            fix="Set model.retain_model (a retain model or its log), add retain_model: (how to train one), "
            "or set evaluate.select=last.",
        )
    return f"{config.select}, against a retain model"


def _near(name: str, options: Sequence[str]) -> str:
    longer = [option for option in options if option.startswith(name)]
    return f"Allowed: {', '.join(longer)}." if longer else nearest(name, options)


def check_training(recipe: Recipe, section: str, train: Train) -> str:
    """Let transformers see the settings of a training exactly as the trainer will hand them over.

    Raises:
        UserError: The optimiser, a tracker or an entry of trainer_extra is not known.
    """
    import torch
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.training_args import OptimizerNames

    from expunge.data.templates import Encoded
    from expunge.training import arguments
    from expunge.training.batching import BatchPlan
    from expunge.training.job import Job

    optimizers = [item.value for item in OptimizerNames]
    if train.optimizer not in optimizers:
        raise UserError(
            f"{section}.optimizer: transformers knows no '{train.optimizer}'.",
            fix=_near(train.optimizer, optimizers),
        )
    for tracker in set(train.report_to) - {"all", "none"}:
        if tracker not in INTEGRATION_TO_CALLBACK:
            raise UserError(
                f"{section}.report_to: transformers knows no tracker '{tracker}'.",
                fix=nearest(tracker, INTEGRATION_TO_CALLBACK),
            )
    plan = BatchPlan(
        {"forget": [Encoded((0,), 0)]},
        pad_id=0,
        epochs=None,
        steps=1 << 30,  # longer than any warm-up, which is looked at where the rows are known
        batch_size=train.batch_size,
        device_batch_size=train.device_batch_size,
    )
    # A model of one weight on the CPU: the settings are looked at, nothing is trained.
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
        first = " ".join(str(error).split())[:300]
        raise UserError(f"{section}: transformers refuses these settings: {first}") from error
    extra = f", {len(train.trainer_extra)} of them from trainer_extra" if train.trainer_extra else ""
    return f"accepted by transformers.TrainingArguments{extra}"
