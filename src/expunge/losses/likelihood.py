"""Likelihood losses: how well a model predicts the answer tokens."""

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
