"""Run a decoder and reach its output head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from expunge.modeling.batch import TensorBatch
from expunge.modeling.packing import Packing, pack


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
