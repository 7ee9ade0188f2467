"""Liger's fused kernels for norms, positions and gates on a GPU; its losses are left alone."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from expunge.distributed import fsdp_enabled
from expunge.errors import IncompatibleError, MissingExtraError, NotHereError

KERNELS = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""What transformers hands on to liger. Its losses would not be called: ours come from log-probabilities at answer
positions, which are projected in chunks already."""


def need_liger() -> None:
    """Refuse liger's kernels on a machine that cannot run them.

    Raises:
        NotHereError: There is no GPU, or liger-kernel is not installed.
    """
    if not torch.cuda.is_available():
        raise NotHereError("train.trainer_extra.use_liger_kernel: its kernels run on a GPU only.", fix="Leave it out.")
    if importlib.util.find_spec("liger_kernel") is None:
        raise MissingExtraError("liger-kernel", "liger", "train.trainer_extra.use_liger_kernel")


def check_liger(model: Any) -> None:
    """Refuse liger's kernels for a model to which they would do nothing.

    Raises:
        IncompatibleError: The model is not on a GPU or in shards, or liger has no kernels for its architecture.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    why = ""
    if next(model.parameters()).device.type != "cuda":
        why = "its kernels run on a GPU only, and the model is on the processor"
    elif fsdp_enabled():
        why = "transformers does not apply its kernels to a model in shards"
    elif model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        why = f"liger-kernel has none for {model.config.model_type} models"
    if why:
        raise IncompatibleError(f"train.trainer_extra.use_liger_kernel: {why}.", fix="Leave it out.")
