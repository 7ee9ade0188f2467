"""Liger's fused kernels for norms, positions and gates on a GPU; its losses are left alone."""

from __future__ import annotations

import importlib.util
from typing import Any

from expunge.errors import ConfigError, IncompatibleError, MissingExtraError
from expunge.modeling.distributed import shards

KERNELS = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""What transformers hands on to liger. Its losses would not be called: ours come from log-probabilities at answer
positions, which are projected in chunks already."""


def check_liger(model: Any) -> None:
    """Refuse liger's kernels where they would do nothing or break.

    Raises:
        MissingExtraError: liger-kernel is not installed.
        ConfigError: The model is not on a GPU, or in shards.
        IncompatibleError: Liger has no kernels for the model's architecture.
    """
    key = "train.trainer_extra.use_liger_kernel: "
    if next(model.parameters()).device.type != "cuda":
        raise ConfigError([f"{key}its kernels run on a GPU only; leave it out"])
    if shards():
        raise ConfigError([f"{key}transformers does not apply them to a model in shards; leave it out"])
    if importlib.util.find_spec("liger_kernel") is None:
        raise MissingExtraError("liger-kernel", "liger", "train.trainer_extra.use_liger_kernel")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise IncompatibleError(
            f"liger-kernel has no kernels for {model.config.model_type} models.",
            fix="Leave train.trainer_extra.use_liger_kernel out.",
        )
