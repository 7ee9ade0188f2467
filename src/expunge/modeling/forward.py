"""Run a model's decoder and its output layer separately."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from expunge.modeling.batch import TensorBatch
from expunge.modeling.packing import Packing, pack
from expunge.modeling.types import CausalLM


def decode(model: CausalLM, batch: TensorBatch, packed: bool = False) -> Tensor:
    """Return the hidden states of all positions after the last layer and norm, (B, L, D).

    Args:
        model: The model.
        batch: B rows of L tokens.
        packed: Run the rows without padding, if the model supports it (`can_pack`); hidden states of padding are then
            undefined.
    """
    packing = packing_of(model, batch, packed)
    hidden = run_decoder(model, batch, packing)
    return hidden if packing is None else packing.unpack(hidden)


def packing_of(model: CausalLM, batch: TensorBatch, packed: bool) -> Packing | None:
    """Return the packing of a batch, or None if its rows are run with padding."""
    return pack(batch.spans, batch.input_ids.shape[1], model) if packed else None


def run_decoder(model: CausalLM, batch: TensorBatch, packing: Packing | None) -> Tensor:
    """Return the hidden states as the decoder returns them: (B, L, D), or (K, W, D) of packed rows."""
    if packing is None:
        # Positions count from the first token, so that padding on the left does not shift them.
        position_ids = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": position_ids}
    else:
        inputs = {"input_ids": packing.pack(batch.input_ids), "position_ids": packing.position_ids}
    hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden


def head_of(model: CausalLM) -> Callable[[Tensor], Tensor]:
    """Return the function from hidden states to float32 logits; see `output_head`."""
    return output_head(model.get_output_embeddings(), model.config)


def output_head(layer: nn.Module, config: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from hidden states to float32 logits.

    Args:
        layer: The output layer.
        config: The model's config. Some architectures scale their logits (Cohere, Granite) or cap them (Gemma 2).
    """
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = layer(hidden).float() * scale if scale != 1.0 else layer(hidden).float()
        return torch.tanh(logits / cap) * float(cap) if cap else logits

    return head
