"""Log-probabilities of answer tokens, projected to the vocabulary in chunks.

No tensor of (batch, length, vocabulary) is ever created: only the hidden states that predict an answer token are
projected, and only a few thousand of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits computed at a time: 128 MiB in float32."""


def token_logp(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
    """Return the log-probability of each label, with the logits of at most one chunk in memory.

    Args:
        head: Maps hidden states to logits.
        hidden: (N, D) hidden states that predict the labels.
        labels: (N,) token ids.
        vocab_size: V, which determines how many positions a chunk has.

    Returns:
        (N,) natural logs in float32, differentiable; the backward pass projects each chunk again.
    """

    def chunk_logp(hidden_chunk: Tensor, label_chunk: Tensor) -> Tensor:
        return -F.cross_entropy(head(hidden_chunk), label_chunk, reduction="none")

    return in_chunks(chunk_logp, (hidden, labels), vocab_size)


def in_chunks(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], vocab_size: int) -> Tensor:
    """Apply a function to chunks of (N, ...) tensors, of at most `CHUNK_ELEMENTS` logits, and concatenate the results.

    With gradient, each of several chunks is checkpointed: its logits are freed, and computed again in the backward
    pass.
    """
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    total = inputs[0].shape[0]
    if total <= size:
        return function(*inputs)
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    results = []
    for start in range(0, total, size):
        chunk = tuple(tensor[start : start + size] for tensor in inputs)
        results.append(checkpoint(function, *chunk, use_reentrant=False) if needs_gradient else function(*chunk))
    return torch.cat(results)
