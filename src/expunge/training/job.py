"""Everything that one training needs."""

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
    """Everything that one training is."""

    title: str
    model: Any
    """With FSDP, one in shards (`modeling.sharding.placed`)."""
    plan: BatchPlan
    objective: Objective
    """What is minimised."""
    config: Train
    folder: Path
    """Where train.jsonl and the training states go."""
    seed: int
    bf16: bool = False
    fp16: bool = False
    reference_logp: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Per set, the start model's summed log-probability of each row."""
    reference: FrozenReference | StoredReference | None = None
    measure: Callable[[int], None] | None = None
    """Called after each epoch, with the step."""
    measured: Callable[[int], bool] | None = None
    """Whether a step's measurement is already on disk."""
    give_up: Callable[[int], bool] | None = None
    """Asked with the step after each measurement but the last: whether to end the training there."""
    gradient_checkpointing: bool = False
