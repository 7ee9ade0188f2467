"""Likelihood losses: how well a model predicts the answer tokens, and weights that say which tokens to forget."""

from __future__ import annotations

import torch
from torch import Tensor


def row_sums(token_values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum a value per answer token into a value per row.

    Args:
        token_values: (N,) one value per answer token.
        rows: (N,) the row that each token belongs to.
        num_rows: Rows of the batch, B.

    Returns:
        (B,) sums, in float32 or wider.
    """
    wide = token_values.float() if token_values.dtype in (torch.float16, torch.bfloat16) else token_values
    return torch.zeros(num_rows, dtype=wide.dtype, device=wide.device).index_add(0, rows, wide)


def wga(token_logp: Tensor, beta: float) -> Tensor:
    """Weighted gradient ascent: tokens that are already unlikely are pushed less.

    L = p^beta * log p, with the weight p^beta held constant

    Plain ascent pushes the token's logit by 1 - p, hardest where it is forgotten already; the weight makes that
    p^beta * (1 - p), which falls to 0 with p.

    Args:
        token_logp: (N,) log-probability of each answer token, log p.
        beta: Strength of the weight; 0 is gradient ascent.

    Returns:
        (N,) loss per token.

    Example:
        >>> import math, torch
        >>> round(float(wga(torch.tensor([math.log(0.5)]), beta=1.0)), 4)  # 0.5 * log 0.5
        -0.3466

    References:
        Wang et al. 2025, arXiv:2502.19301.
    """
    return (beta * token_logp.detach()).exp() * token_logp


def satimp(token_logp: Tensor, beta1: float, beta2: float) -> Tensor:
    """Ascent weighted by saturation and importance: neither forgotten nor certain tokens are pushed.

    L = p^beta1 * (1 - p)^beta2 * log p, with the weight held constant

    Args:
        token_logp: (N,) log-probability of each answer token, log p.
        beta1: How much less an unlikely (saturated) token counts.
        beta2: How much less a certain token, one that any text of this form would predict, counts.

    Returns:
        (N,) loss per token.

    Example:
        >>> import math, torch
        >>> round(float(satimp(torch.tensor([math.log(0.5)]), beta1=1.0, beta2=1.0)), 4)  # 0.25 * log 0.5
        -0.1733

    References:
        Yang et al. 2025, arXiv:2505.11953.
    """
    fixed = token_logp.detach()
    # 1 - p from expm1, since p close to 1 is the usual case on a memorised answer.
    return (beta1 * fixed).exp() * (-fixed.expm1()).clamp(min=0) ** beta2 * token_logp
