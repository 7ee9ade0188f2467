"""Settings, model, batches and callbacks of one training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expunge.config.recipe import Train
from expunge.methods.base import Objective
from expunge.modeling.reference import FrozenReference, StoredReference
from expunge.training.batching import BatchPlan


@dataclass(frozen=True)
class Job:
    """One training: an unlearning or a fine-tuning."""

    title: str
    """Name in messages and the progress bar."""
    model: Any
    """Model to train; sharded when FSDP is on (`modeling.fsdp.load_on_device`)."""
    plan: BatchPlan
    objective: Objective
    """Loss that is minimised."""
    config: Train
    folder: Path
    """Folder of train.jsonl and the training states."""
    seed: int
    bf16: bool = False
    fp16: bool = False
    reference_logp: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Per set, (rows,) summed log-probability of each row under the reference."""
    reference: FrozenReference | StoredReference | None = None
    """The frozen policy, for losses that need its logits or hidden states."""
    measure: Callable[[int], None] | None = None
    """Evaluation after each epoch, called with the step."""
    measured: Callable[[int], bool] | None = None
    """Whether the results of a step are on disk already."""
    give_up: Callable[[int], bool] | None = None
    """Whether to stop the training; called with the step after each evaluation but the last."""
    gradient_checkpointing: bool = False
