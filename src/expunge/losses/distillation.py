"""Self-distillation losses: cross-entropy to a prediction in which the answer token is suppressed."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.losses.divergence import soft_cross_entropy


def undial(logits: Tensor, labels: Tensor, reference_logits: Tensor, beta: float) -> Tensor:
    """Compute the cross-entropy to the reference's prediction with the answer token's logit lowered by beta.

    L = -sum_v q(v) * log p(v),  q = softmax(z_ref - beta * onehot(y))

    The distribution q is fixed and close to the reference's own prediction, so training converges to a fluent model
    instead of diverging.

    Args:
        logits: (N, V) logits of the model.
        labels: (N,) answer tokens, y; where the label is -1, no logit is lowered and q is the reference's prediction.
        reference_logits: (N, V) logits of the frozen reference, z_ref.
        beta: Amount by which the answer token's logit is lowered.

    Returns:
        (N,) loss per position.

    References:
        Dong et al. 2024, arXiv:2402.10052.
    """
    target_logits = reference_logits.detach().clone()
    offset = torch.where(labels >= 0, -beta, 0.0).to(target_logits.dtype)
    target_logits.scatter_add_(1, labels.clamp(min=0)[:, None], offset[:, None])
    return soft_cross_entropy(logits, target_logits)


def ce_u(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy to the model's current prediction without the answer token.

    L = -sum_v q(v) * log p(v),  q = softmax(z with z_y = -infinity), held constant

    The gradient with respect to a logit is p - q. It vanishes as p(y) goes to 0, so the loss limits itself and needs
    no reference.

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
