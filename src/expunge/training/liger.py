"""Liger's fused kernels for norms, rotary embeddings and gates on a GPU; its loss kernels are not used."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from expunge.distributed import fsdp_enabled
from expunge.errors import IncompatibleError, MissingExtraError, NotHereError

KERNELS = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""Options that transformers passes to liger. Its loss kernels would never be called: losses here are computed from
log-probabilities at answer positions, which are projected in chunks already."""


def require_liger() -> None:
    """Raise if this machine cannot run liger's kernels.

    Raises:
        NotHereError: There is no GPU.
        MissingExtraError: liger-kernel is not installed.
    """
    if not torch.cuda.is_available():
        raise NotHereError("train.trainer_extra.use_liger_kernel: its kernels run on a GPU only.", fix="Leave it out.")
    if importlib.util.find_spec("liger_kernel") is None:
        raise MissingExtraError("liger-kernel", "liger", "train.trainer_extra.use_liger_kernel")


def check_liger(model: Any) -> None:
    """Raise if liger's kernels would have no effect on a model.

    Raises:
        IncompatibleError: The model is on the CPU or sharded, or liger has no kernels for its architecture.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    reason = ""
    if next(model.parameters()).device.type != "cuda":
        reason = "its kernels run on a GPU only, and the model is on the CPU"
    elif fsdp_enabled():
        reason = "transformers does not apply its kernels to a sharded model"
    elif model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        reason = f"liger-kernel has no kernels for {model.config.model_type} models"
    if reason:
        raise IncompatibleError(f"train.trainer_extra.use_liger_kernel: {reason}.", fix="Leave it out.")
