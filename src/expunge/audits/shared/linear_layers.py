"""Weights of a model's linear layers, which attacks round or remove."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Return all linear layers of a causal language model but the output head, by name."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a linear layer as a view of shape (outputs, inputs); writing to it changes the layer."""
    weight: Tensor = layer.get_parameter("weight").detach()
    # GPT-2 stores the transpose.
    return weight.T if isinstance(layer, Conv1D) else weight
