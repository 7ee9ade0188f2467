"""Margin losses: bounded pushes on logits or probabilities, which stop by themselves."""

from __future__ import annotations

import torch
from torch import Tensor


def inverted_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Lower the answer token's probability and raise that of its strongest rival only.

    L = 1 + p(y) - max_{v != y} p(v)

    Gradient ascent spreads the lost probability over the whole vocabulary; this loss hands it to one sensible
    token, and is bounded between 0 and 2.

    Args:
        logits: (N, V) logits.
        labels: (N,) answer tokens, y.

    Returns:
        (N,) loss per token.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.7, 0.2, 0.1]])
        >>> round(float(inverted_hinge(p.log(), torch.tensor([0]))), 4)  # 1 + 0.7 - 0.2
        1.5

    References:
        Cha et al. 2024, arXiv:2408.06621.
    """
    probabilities = logits.softmax(-1)
    own = probabilities.gather(1, labels[:, None]).squeeze(1)
    rival = probabilities.scatter(1, labels[:, None], -1.0).max(-1).values
    return 1 + own - rival


def logit_margin(logits: Tensor) -> Tensor:
    """How far the highest logit stands above the average: 0 for a uniform prediction, which is its minimum.

    L = (max_v z_v - mean_v z_v)^2

    Args:
        logits: (N, V) logits, z.

    Returns:
        (N,) loss per position.

    Example:
        >>> import torch
        >>> float(logit_margin(torch.tensor([[4.0, 1.0, 1.0]])))  # (4 - 2)^2
        4.0

    References:
        Entesari et al. 2025, arXiv:2506.05314, as in its public code.
    """
    return torch.square(logits.max(-1).values - logits.mean(-1))
