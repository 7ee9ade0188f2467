"""Cross-entropy and KL divergence between two predictive distributions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**20
"""Logits processed at a time: 4 MiB in float32."""


class _SoftCrossEntropy(torch.autograd.Function):
    """Cross-entropy to fixed distributions; the gradient p - q is the only (N, V) tensor that it allocates."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target_logits: Tensor, subtract_entropy: bool) -> Tensor:
        """Compute (N,) cross-entropies, or KL divergences if the entropy of the targets is subtracted."""
        # The gradient is computed here, because forward already has both distributions of each chunk.
        logits_gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        values = logits.new_empty(logits.shape[0])
        size = max(1, CHUNK_ELEMENTS // logits.shape[1])
        for start in range(0, logits.shape[0], size):
            chunk = slice(start, start + size)
            logp, logq = F.log_softmax(logits[chunk], dim=-1), F.log_softmax(target_logits[chunk], dim=-1)
            q = logq.exp()
            values[chunk] = (q * (logq - logp if subtract_entropy else -logp)).sum(-1)
            if logits_gradient is not None:
                torch.sub(logp.exp_(), q, out=logits_gradient[chunk])
        ctx.save_for_backward(logits_gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the (N, V) gradient of the logits; the targets are constant and get none."""
        (logits_gradient,) = ctx.saved_tensors
        return gradients[0][:, None] * logits_gradient, None, None


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Compute the cross-entropy to soft targets: -sum_v q(v) * log p(v), q = softmax(target_logits).

    Args:
        logits: (N, V) logits of the model.
        target_logits: (N, V) logits of the targets q, held constant; -infinity where q is 0.

    Returns:
        (N,) value per position in nats. Its gradient with respect to a logit is p - q.
    """
    values: Tensor = _SoftCrossEntropy.apply(logits, target_logits, False)  # type: ignore[no-untyped-call]
    return values


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Compute KL(reference || model) at each position.

    KL = sum_v p_ref(v) * (log p_ref(v) - log p(v))

    Args:
        reference_logits: (N, V) logits of the frozen reference, held constant.
        logits: (N, V) logits of the model.

    Returns:
        (N,) divergence per position in nats; 0 where the two predictions are equal.
    """
    values: Tensor = _SoftCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits.float(), reference_logits.float(), True
    )
    return values
