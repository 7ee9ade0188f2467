"""Likelihood losses: sums of token log-probabilities, and gradient ascent with a weight per token."""

from __future__ import annotations

import torch
from torch import Tensor


def row_sums(token_values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum the values of answer tokens by row.

    Args:
        token_values: (N,) one value per answer token.
        rows: (N,) row index of each token.
        num_rows: Number of rows in the batch, B.

    Returns:
        (B,) sums, in float32 or wider.
    """
    values = token_values.float() if token_values.dtype in (torch.float16, torch.bfloat16) else token_values
    return torch.zeros(num_rows, dtype=values.dtype, device=values.device).index_add(0, rows, values)


def wga(token_logp: Tensor, beta: float) -> Tensor:
    """Compute the weighted gradient ascent (WGA) loss, with smaller weights on tokens that are already unlikely.

    L = p^beta * log p, with the weight p^beta held constant

    Plain gradient ascent pushes a token's logit by 1 - p, which is largest where the token is already forgotten. With
    the weight, the push is p^beta * (1 - p), which goes to 0 with p.

    Args:
        token_logp: (N,) log-probability of each answer token, log p.
        beta: Exponent of the weight; 0 is plain gradient ascent.

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
    """Compute the SatImp loss: gradient ascent with small weights on tokens that are already forgotten or near certain.

    L = p^beta1 * (1 - p)^beta2 * log p, with the weight held constant

    Args:
        token_logp: (N,) log-probability of each answer token, log p.
        beta1: Exponent of the saturation weight: the larger, the less an unlikely (already forgotten) token counts.
        beta2: Exponent of the importance weight: the larger, the less a near-certain token counts, such as one that
            any text of this form contains.

    Returns:
        (N,) loss per token.

    Example:
        >>> import math, torch
        >>> round(float(satimp(torch.tensor([math.log(0.5)]), beta1=1.0, beta2=1.0)), 4)  # 0.25 * log 0.5
        -0.1733

    References:
        Yang et al. 2025, arXiv:2505.11953.
    """
    constant = token_logp.detach()
    # expm1 keeps 1 - p accurate for p close to 1, the usual case on memorised answers.
    return (beta1 * constant).exp() * (-constant.expm1()).clamp(min=0) ** beta2 * token_logp
