"""Log-probabilities at answer positions, projected to the vocabulary in chunks.

No tensor of (batch, length, vocabulary) is ever built: hidden states are gathered at the positions that predict
an answer token first, and the output layer sees a few thousand of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits that exist at one time: 128 MiB in float32."""


def token_logp(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
    """Log-probability of each label, without keeping the logits of more than one chunk.

    Args:
        head: Maps hidden states to logits.
        hidden: (N, D) hidden states that predict the labels.
        labels: (N,) token ids.
        vocab_size: V, which sets how many positions are projected at a time.

    Returns:
        (N,) natural logs in float32, differentiable; the backward pass projects each chunk once more.
    """

    def one(part: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(head(part), target, reduction="none")

    return in_chunks(one, (hidden, labels), vocab_size)


def in_chunks(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], vocab_size: int) -> Tensor:
    """Apply a function of (N, ...) tensors to pieces small enough for the vocabulary, and join the results."""
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    total = inputs[0].shape[0]
    if total <= size:
        return function(*inputs)
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    parts = []
    for start in range(0, total, size):
        piece = tuple(tensor[start : start + size] for tensor in inputs)
        parts.append(checkpoint(function, *piece, use_reentrant=False) if needs_gradient else function(*piece))
    return torch.cat(parts)
