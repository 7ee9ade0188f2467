"""Protocols for the models and tokenizers that the package handles.

A signature states by its type whether it takes the causal language model itself (`CausalLM`), a model wrapped by peft
(`Adapted`), or either (`TrainedModel`). `adapters.causal_lm` gets the first from either.

transformers and peft are not type-checked here, and a test double needs only the members that its test uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from expunge.data.tokenizer import Tokenizer, Vocabulary

__all__ = ["Adapted", "CausalLM", "ModuleLike", "Tokenizer", "TrainedModel", "Vocabulary"]


class ModuleLike(Protocol):
    """The members of `torch.nn.Module` that models share."""

    training: bool
    """Whether the module is in training mode."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters."""

    def named_parameters(self, *, remove_duplicate: bool = ...) -> Iterator[tuple[str, nn.Parameter]]:
        """Return all parameters with their dotted names."""

    def buffers(self) -> Iterator[Tensor]:
        """Return all buffers."""

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Return all buffers with their dotted names."""

    def modules(self) -> Iterator[nn.Module]:
        """Return the module and all its submodules."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Return the module and all its submodules with their dotted names."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return a submodule by its dotted name."""

    def state_dict(self) -> dict[str, Any]:
        """Return all weights by name."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or evaluation mode with False."""

    def eval(self) -> Self:
        """Set evaluation mode."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train or freeze all parameters."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the weights to a device or cast them to a dtype."""


class CausalLM(ModuleLike, Protocol):
    """A causal language model of transformers, without a wrapper around it.

    Its layers may contain adapters or be sharded; its methods are those of the model class.
    """

    forward: Callable[..., Any]
    """The forward pass without the hooks that calling the model runs."""

    @property
    def config(self) -> Any:
        """Architecture settings, a `transformers.PreTrainedConfig`."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def base_model(self) -> nn.Module:
        """The decoder without its output layer."""

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings."""

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer, which maps hidden states to logits."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate continuations."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> Any:
        """Recompute activations in the backward pass instead of storing them."""

    def enable_input_require_grads(self) -> Any:
        """Make the embeddings' output require gradients, for checkpointing with frozen embeddings."""

    def save_pretrained(self, save_directory: Any, **settings: Any) -> Any:
        """Write the weights and the config to a folder."""


class Adapted(ModuleLike, Protocol):
    """A causal language model wrapped by peft, with an adapter."""

    def get_base_model(self) -> CausalLM:
        """Return the model inside the wrapper; its layers contain the adapter."""

    def disable_adapter(self) -> contextlib.AbstractContextManager[Any]:
        """Run the model without its adapter inside the context."""

    def merge_and_unload(self) -> CausalLM:
        """Add the adapter to the weights and return the model without wrapper."""

    def unload(self) -> CausalLM:
        """Remove the adapter and return the model without wrapper."""

    def save_pretrained(self, save_directory: Any, **settings: Any) -> Any:
        """Write the adapter to a folder."""


TrainedModel = CausalLM | Adapted
"""A model with or without an adapter."""
