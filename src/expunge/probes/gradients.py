"""Gradient norms of the loss on single texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode, head_of, vocab_size
from expunge.modeling.logprobs import token_logp


def gradient_norms(model: Any, items: Sequence[Encoded], *, pad_id: int, title: str = "Gradients") -> list[float]:
    """Compute the 2-norm of the gradient of each item's mean loss, averaged over the weight tensors.

    Formula: (1/P) sum_p || d nll / d theta_p ||_2, where nll is the mean negative log-likelihood of the answer's tokens
    and p runs over the P floating-point tensors on which it depends, including those of an adapter. Each item takes one
    forward and one backward pass, and the memory of one gradient of the full model.

    Args:
        model: A causal language model; its mode, gradients and `requires_grad` flags are left unchanged.
        items: Encoded rows.
        pad_id: Padding id; required for collation, although a batch of one row has no padding.
        title: Title of the progress bar.

    Returns:
        One norm per item, in order.

    References:
        Wang et al. 2024, arXiv:2402.17012; the mean over tensors as in OpenUnlearning.
    """
    inner = causal_lm(model)
    weights = [weight for weight in inner.parameters() if weight.is_floating_point()]
    requires_grad = [weight.requires_grad for weight in weights]
    was_training = model.training
    model.eval()
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with progress(title, len(items), "gradients") as advance:
            norms = []
            for item in items:
                norms.append(_gradient_norm(inner, weights, item, pad_id))
                advance(1)
            return norms
    finally:
        for weight, flag in zip(weights, requires_grad, strict=True):
            weight.requires_grad_(flag)
        model.train(was_training)


# A separate function, so that the gradients are freed before the next item's forward pass.
@torch.enable_grad()
def _gradient_norm(model: Any, weights: Sequence[torch.Tensor], item: Encoded, pad_id: int) -> float:
    batch = TensorBatch.of(collate([item], pad_id), weights[0].device)
    hidden = decode(model, batch)[batch.rows, batch.positions]
    nll = -token_logp(head_of(model), hidden, batch.labels, vocab_size(model)).mean()
    gradients = torch.autograd.grad(nll, weights, allow_unused=True)
    return float(torch.stack([gradient.float().norm() for gradient in gradients if gradient is not None]).mean())
