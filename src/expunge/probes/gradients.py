"""How far training on each text would move a model: norms of the gradients of its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode, head_of
from expunge.modeling.logprobs import token_logp


def gradient_norms(model: Any, items: Sequence[Encoded], *, pad_id: int, title: str = "Gradients") -> list[float]:
    """Mean over the weight tensors of the 2-norm of the gradient of each item's mean loss.

    Formula: (1/P) sum_p || d nll / d theta_p ||_2, nll the mean negative log-likelihood of the answer's tokens, p over
    the P floating-point tensors of the model that it depends on, an adapter's among them. One forward and one
    backward pass per item, and memory for one gradient of the whole model.

    Args:
        model: A causal language model; its mode, its gradients and which weights are trained stay as they are.
        items: Encoded rows.
        pad_id: Id written into padding, of which there is none here.
        title: What the progress bar says.

    Returns:
        One norm per item, in order.

    References:
        Wang et al. 2024, arXiv:2402.17012; the mean over tensors as in OpenUnlearning.
    """
    inner = causal_lm(model)
    weights = [weight for weight in inner.parameters() if weight.is_floating_point()]
    trained = [weight.requires_grad for weight in weights]
    was_training = model.training
    model.eval()
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with progress(title, len(items), "gradients") as advance:
            norms = []
            for item in items:
                norms.append(_norm(inner, weights, item, pad_id))
                advance(1)
            return norms
    finally:
        for weight, flag in zip(weights, trained, strict=True):
            weight.requires_grad_(flag)
        model.train(was_training)


@torch.enable_grad()
def _norm(model: Any, weights: Sequence[torch.Tensor], item: Encoded, pad_id: int) -> float:
    batch = TensorBatch.of(collate([item], pad_id), weights[0].device)
    hidden = decode(model, batch)[batch.rows, batch.positions]
    nll = -token_logp(head_of(model), hidden, batch.labels, model.config.vocab_size).mean()
    gradients = torch.autograd.grad(nll, weights, allow_unused=True)
    return float(torch.stack([each.float().norm() for each in gradients if each is not None]).mean())
