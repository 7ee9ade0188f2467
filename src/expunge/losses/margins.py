"""Margin losses on probabilities or logits; unlike gradient ascent, they are bounded below."""

from __future__ import annotations

import torch
from torch import Tensor


def inverted_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the inverted hinge loss, which moves probability from the answer token to its strongest competitor.

    L = 1 + p(y) - max_{v != y} p(v)

    Gradient ascent spreads the removed probability over the full vocabulary; this loss moves it to a single plausible
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
    answer = probabilities.gather(1, labels[:, None]).squeeze(1)
    competitor = probabilities.scatter(1, labels[:, None], -1.0).max(-1).values
    return 1 + answer - competitor


def logit_margin(logits: Tensor) -> Tensor:
    """Compute the squared difference between the largest and the mean logit, which is 0 only for a uniform prediction.

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
