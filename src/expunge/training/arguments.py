"""Translate the settings of a job into `transformers.TrainingArguments`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from expunge.errors import ConfigError, nearest
from expunge.training.liger import KERNELS, require_liger
from expunge.training.optimizer import OPTIMIZERS, check_optimizer

if TYPE_CHECKING:
    from expunge.training.job import Job

_LAUNCHER = "is set by the launcher: run `accelerate launch --use_fsdp --fsdp_version 2`"
REFUSED = {
    "fsdp": _LAUNCHER,
    "fsdp_config": _LAUNCHER,
    "liger_kernel_config": "is set by expunge when use_liger_kernel is on",
}
"""Fields of `TrainingArguments` that are refused, with the reason."""


def training_arguments(job: Job, state: Path) -> transformers.TrainingArguments:
    """Return the Trainer's arguments for a job.

    Args:
        job: The training.
        state: Folder for the training states.

    Raises:
        ConfigError: `trainer_extra` has a field that does not exist, is set by the recipe already, or has no effect.
        MissingExtraError: The optimiser needs bitsandbytes or torchao, which is not installed.
        IncompatibleError: The optimiser is from bitsandbytes and the model is sharded.
    """
    config, plan = job.config, job.plan
    check_optimizer(config.optimizer)
    settings: dict[str, Any] = {
        "output_dir": str(state),
        # One item of the plan, which is a complete micro-batch.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.accumulation,
        "max_steps": plan.steps,
        "learning_rate": config.lr,
        "weight_decay": config.weight_decay,
        "warmup_steps": plan.warmup_steps(config, job.title),
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule),
        # adamw_torch_fused is the same update in one kernel, equal to rounding. An optimiser of this package has the
        # arguments of that name, and `StepTrainer` passes its class.
        "optim": {name: "adamw_torch_fused" for name in ("adamw_torch", *OPTIMIZERS)}.get(
            config.optimizer, config.optimizer
        ),
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "max_grad_norm": config.max_grad_norm,
        "seed": job.seed,
        "bf16": job.bf16,
        "fp16": job.fp16,
        "use_cpu": next(job.model.parameters()).device.type == "cpu",
        "logging_steps": 1,
        # `SaveAndStop` decides when to save.
        "save_strategy": "no",
        "save_total_limit": 1,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": config.report_to or "none",
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
    }
    if config.trainer_extra.get("use_liger_kernel"):
        require_liger()
        settings["liger_kernel_config"] = KERNELS
    fields = {item.name for item in dataclasses.fields(transformers.TrainingArguments)}
    problems = []
    for key in config.trainer_extra:
        if key in settings:
            problems.append(f"train.trainer_extra.{key}: is already set by the recipe ({settings[key]!r})")
        elif key in REFUSED:
            problems.append(f"train.trainer_extra.{key}: {REFUSED[key]}")
        elif key not in fields:
            problems.append(
                f"train.trainer_extra.{key}: transformers.TrainingArguments has no such field. {nearest(key, fields)}"
            )
    if problems:
        raise ConfigError(problems)
    arguments = transformers.TrainingArguments(**settings, **config.trainer_extra)
    # With several visible GPUs the Trainer would split each micro-batch over them (DataParallel). Here every GPU has a
    # process of its own.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
