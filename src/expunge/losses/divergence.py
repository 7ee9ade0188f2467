"""Divergences between two predictive distributions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _SoftTargets(torch.autograd.Function):
    """Cross-entropy to fixed distributions: its gradient, p - q, is made in place and is all that is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) values."""
        logp = F.log_softmax(logits, dim=-1)
        values = -(targets * logp).sum(-1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logp.exp_().sub_(targets))
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """(N, V) gradient of the logits; the targets get none."""
        (difference,) = ctx.saved_tensors
        return gradients[0][:, None] * difference, None


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to whole distributions: -sum_v q(v) * log p(v).

    Args:
        logits: (N, V) logits of the model.
        targets: (N, V) probabilities q, each row of which sums to 1; held constant.

    Returns:
        (N,) value per position in nats. Its gradient for a logit is p - q.
    """
    values: Tensor = _SoftTargets.apply(logits, targets)  # type: ignore[no-untyped-call]
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
    with torch.no_grad():
        logq = F.log_softmax(reference_logits.float(), dim=-1)
        targets = logq.exp()
        negative_entropy = logq.mul_(targets).sum(-1)
    return negative_entropy + soft_cross_entropy(logits.float(), targets)
