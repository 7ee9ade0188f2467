"""Divergences between two predictive distributions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE_ELEMENTS = 2**20
"""Values that are worked on at a time: 4 MiB in float32."""


class _SoftTargets(torch.autograd.Function):
    """Cross-entropy to fixed distributions: its gradient, p - q, is all that is ever there of N x V values."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target_logits: Tensor, relative: bool) -> Tensor:
        """(N,) values; relative to the targets' own entropy if asked for."""
        difference = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        values = logits.new_empty(logits.shape[0])
        size = max(1, PIECE_ELEMENTS // logits.shape[1])
        for start in range(0, logits.shape[0], size):
            piece = slice(start, start + size)
            logp, logq = F.log_softmax(logits[piece], dim=-1), F.log_softmax(target_logits[piece], dim=-1)
            targets = logq.exp()
            values[piece] = (targets * (logq - logp if relative else -logp)).sum(-1)
            if difference is not None:
                torch.sub(logp.exp_(), targets, out=difference[piece])
        ctx.save_for_backward(difference)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """(N, V) gradient of the logits; the targets get none."""
        (difference,) = ctx.saved_tensors
        return gradients[0][:, None] * difference, None, None


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Cross-entropy to whole distributions: -sum_v q(v) * log p(v), q = softmax(target_logits).

    Args:
        logits: (N, V) logits of the model.
        target_logits: (N, V) logits of the targets q, held constant; -infinity where q is 0.

    Returns:
        (N,) value per position in nats. Its gradient for a logit is p - q.
    """
    values: Tensor = _SoftTargets.apply(logits, target_logits, False)  # type: ignore[no-untyped-call]
    return values


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || model) at each position: how surprised the model is by the reference's predictions.

    KL = sum_v p_ref(v) * (log p_ref(v) - log p(v))

    Args:
        reference_logits: (N, V) logits of the frozen reference, held constant.
        logits: (N, V) logits of the model.

    Returns:
        (N,) divergence per position in nats; 0 where both agree.
    """
    values: Tensor = _SoftTargets.apply(logits.float(), reference_logits.float(), True)  # type: ignore[no-untyped-call]
    return values
