"""Log-probabilities at answer positions, projected to the vocabulary in chunks.

No tensor of (batch, length, vocabulary) is ever built: hidden states are gathered at the positions that predict
an answer token first, and the output layer sees a few thousand of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from expunge.data.collate import TokenBatch
from expunge.modeling.packing import Packing, Span, pack

CHUNK_ELEMENTS = 2**25
"""Logits that exist at one time: 128 MiB in float32."""


@dataclass(frozen=True)
class TensorBatch:
    """A `TokenBatch` as tensors on one device; same fields, same shapes."""

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    positions: Tensor
    labels: Tensor
    num_answer: Tensor
    spans: tuple[Span, ...]
    """Where each row's tokens are, known without asking the device."""

    @classmethod
    def of(cls, batch: TokenBatch, device: torch.device | str) -> TensorBatch:
        """Copy a padded batch to a device."""

        def move(array: np.ndarray[Any, Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            input_ids=move(batch.input_ids),
            attention_mask=move(batch.attention_mask),
            rows=move(batch.rows),
            positions=move(batch.positions),
            labels=move(batch.labels),
            num_answer=move(batch.num_answer),
            spans=tuple((int(np.argmax(row)), int(np.argmax(row) + row.sum())) for row in batch.attention_mask),
        )

    def to(self, device: torch.device) -> TensorBatch:
        """The same on another device."""
        tensors: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    @property
    def num_rows(self) -> int:
        """Rows of the batch, B."""
        return int(self.num_answer.shape[0])


def join(batches: list[TensorBatch]) -> TensorBatch:
    """One batch of all rows of several, padded on the right to the longest."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)

    def widen(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, length - tensor.shape[1]))

    offsets = np.cumsum([0] + [batch.num_rows for batch in batches])
    return TensorBatch(
        input_ids=torch.cat([widen(batch.input_ids) for batch in batches]),
        attention_mask=torch.cat([widen(batch.attention_mask) for batch in batches]),
        rows=torch.cat([batch.rows + int(o) for batch, o in zip(batches, offsets, strict=False)]),
        positions=torch.cat([batch.positions for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        num_answer=torch.cat([batch.num_answer for batch in batches]),
        spans=tuple(span for batch in batches for span in batch.spans),
    )


def take(batch: TensorBatch, members: Sequence[int]) -> TensorBatch:
    """Some rows of a batch, named in ascending order, as wide as they are in it."""
    chosen = torch.as_tensor(members, device=batch.input_ids.device)
    place = torch.full((batch.num_rows,), -1, device=chosen.device)
    place[chosen] = torch.arange(len(members), device=chosen.device)
    answers = place[batch.rows] >= 0
    return TensorBatch(
        input_ids=batch.input_ids[chosen],
        attention_mask=batch.attention_mask[chosen],
        rows=place[batch.rows[answers]],
        positions=batch.positions[answers],
        labels=batch.labels[answers],
        num_answer=batch.num_answer[chosen],
        spans=tuple(batch.spans[index] for index in members),
    )


def decode(model: Any, batch: TensorBatch, packed: bool = False) -> Tensor:
    """Hidden states of all positions after the last layer and norm, (B, L, D).

    Args:
        model: The bare causal language model.
        batch: B rows of L tokens.
        packed: Run the rows without their padding, where the model allows it (`can_pack`); what is returned for
            padding then means nothing.
    """
    packing = packing_of(model, batch, packed)
    hidden = run_decoder(model, batch, packing)
    return hidden if packing is None else packing.unpack(hidden)


def packing_of(model: Any, batch: TensorBatch, packed: bool) -> Packing | None:
    """How to run a batch; None for its rows as they are, padding included."""
    return pack(batch.spans, batch.input_ids.shape[1], model) if packed else None


def run_decoder(model: Any, batch: TensorBatch, packing: Packing | None) -> Tensor:
    """Hidden states as they come out: (B, L, D), or (K, W, D) of packed rows."""
    if packing is None:
        position_ids = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": position_ids}
    else:
        inputs = {"input_ids": packing.pack(batch.input_ids), "position_ids": packing.position_ids}
    hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden


def head_of(model: Any) -> Callable[[Tensor], Tensor]:
    """The function from a hidden state to logits, with the extra scaling that some architectures apply."""
    layer, config = model.get_output_embeddings(), model.config
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = layer(hidden).float() * scale if scale != 1.0 else layer(hidden).float()
        return torch.tanh(logits / cap) * float(cap) if cap else logits

    return head


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
