"""Divergences between two predictive distributions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || model) at each position: how surprised the model is by the reference's predictions.

    KL = sum_v p_ref(v) * (log p_ref(v) - log p(v))

    Args:
        reference_logits: (N, V) logits of the frozen reference.
        logits: (N, V) logits of the model.

    Returns:
        (N,) divergence per position in nats; 0 where both agree.
    """
    reference_logp = F.log_softmax(reference_logits.float(), dim=-1)
    logp = F.log_softmax(logits.float(), dim=-1)
    return F.kl_div(logp, reference_logp, reduction="none", log_target=True).sum(-1)
