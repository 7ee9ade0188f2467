"""A job's settings as transformers' Trainer takes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from expunge.errors import ConfigError, nearest
from expunge.training.liger import KERNELS, need_liger
from expunge.training.optimizer import check_optimizer

if TYPE_CHECKING:
    from expunge.training.job import Job

_LAUNCH = "is said by the launcher, not by the recipe: accelerate launch --use_fsdp --fsdp_version 2"
UNUSED = {
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "liger_kernel_config": "is ours where use_liger_kernel is set",
}
"""Fields of TrainingArguments that are refused, and why."""


def training_arguments(job: Job, state: Path) -> transformers.TrainingArguments:
    """The Trainer's arguments for a job.

    Raises:
        ConfigError: `trainer_extra` has a field that does not exist, that the recipe already sets, or that would do
            nothing here.
        MissingExtraError: The optimiser is bitsandbytes' or torchao's, which is not installed.
        IncompatibleError: The optimiser is bitsandbytes', and the model is in shards.
    """
    config, plan = job.config, job.plan
    check_optimizer(config.optimizer)
    settings: dict[str, Any] = {
        "output_dir": str(state),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.accumulation,
        "max_steps": plan.steps,
        "learning_rate": config.lr,
        "weight_decay": config.weight_decay,
        "warmup_steps": plan.warmup_steps(config, job.title),
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule),
        # The same update in one kernel, to rounding.
        "optim": {"adamw_torch": "adamw_torch_fused"}.get(config.optimizer, config.optimizer),
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "max_grad_norm": config.max_grad_norm,
        "seed": job.seed,
        "bf16": job.bf16,
        "fp16": job.fp16,
        "use_cpu": next(job.model.parameters()).device.type == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "save_total_limit": 1,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": config.report_to or "none",
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
    }
    if config.trainer_extra.get("use_liger_kernel"):
        need_liger()
        settings["liger_kernel_config"] = KERNELS
    known = {item.name for item in dataclasses.fields(transformers.TrainingArguments)}
    problems = [
        f"train.trainer_extra.{key}: "
        + (
            f"is already set by the recipe ({settings[key]!r})"
            if key in settings
            else UNUSED[key]
            if key in UNUSED
            else f"transformers.TrainingArguments has no such field. {nearest(key, known)}"
        )
        for key in config.trainer_extra
        if key in settings or key in UNUSED or key not in known
    ]
    if problems:
        raise ConfigError(problems)
    arguments = transformers.TrainingArguments(**settings, **config.trainer_extra)
    # Several visible GPUs in one process would split our whole micro-batches: more GPUs means more processes.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
