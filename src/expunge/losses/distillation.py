"""Self-distillation: cross-entropy to the model's own prediction with the answer token taken out of it."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.losses.divergence import soft_cross_entropy


def undial(logits: Tensor, labels: Tensor, reference_logits: Tensor, beta: float) -> Tensor:
    """Cross-entropy to the start model's prediction with the answer token's logit lowered by beta.

    L = -sum_v q(v) * log p(v),  q = softmax(z_ref - beta * onehot(y))

    The target is fixed and close to what the model says already, so training ends at a fluent model instead of
    running away.

    Args:
        logits: (N, V) logits of the model.
        labels: (N,) answer tokens, y; -1 where there is none, and q is then the start model's own prediction.
        reference_logits: (N, V) logits of the start model, z_ref.
        beta: How much the answer token's logit is lowered.

    Returns:
        (N,) loss per position.

    References:
        Dong et al. 2024, arXiv:2402.10052.
    """
    lowered = reference_logits.detach().clone()
    penalty = torch.where(labels >= 0, -beta, 0.0).to(lowered.dtype)
    lowered.scatter_add_(1, labels.clamp(min=0)[:, None], penalty[:, None])
    return soft_cross_entropy(logits, lowered)


def ce_u(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the model's own present prediction without the answer token.

    L = -sum_v q(v) * log p(v),  q = softmax(z with z_y = -infinity), held constant

    The gradient for a logit is p - q: it falls to 0 as p(y) does, so the loss needs no reference model and no brake.

    Args:
        logits: (N, V) logits of the model, z.
        labels: (N,) answer tokens, y.

    Returns:
        (N,) loss per token.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.5, 0.25, 0.25]])
        >>> round(float(ce_u(p.log(), torch.tensor([0]))), 4)  # q = (0, 1/2, 1/2), so L = log 4
        1.3863

    References:
        Yang 2025, arXiv:2503.01224.
    """
    return soft_cross_entropy(logits, logits.detach().scatter(1, labels[:, None], -torch.inf))
