"""Decoder layers: find them, run a model up to one of them, and change what enters it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import IncompatibleError
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decoder_of, output_path, override_forward, run_decoder, text_config
from expunge.modeling.packing import Packing


@dataclass(frozen=True)
class Trace:
    """Hidden states of one forward pass up to a layer."""

    hidden: Tensor
    """(B, L, D) output of the last layer that was run."""
    entering: Tensor | None
    """(B, L, D) input of layer `first`, detached; None if `first` is 0 or its input was given."""


def layer_list(model: Any) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of a causal language model's decoder layers, such as 'model.layers'.

    Raises:
        IncompatibleError: The model has no list of as many modules as its config has layers.
    """
    count = getattr(text_config(model.config), "num_hidden_layers", 0)
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    # A multimodal model may have as many layers in its vision encoder.
    language = set((model.get_decoder() if hasattr(model, "get_decoder") else decoder_of(model)).modules())
    for name, module in sorted(lists, key=lambda item: item[1] not in language):
        return name, module
    raise IncompatibleError(
        f"the architecture {model.config.model_type} has no list of its {count} decoder layers, "
        "so its hidden states cannot be steered.",
        fix="Use a common decoder architecture (Llama, Mistral, Qwen, Gemma, Phi, GPT-NeoX, ...).",
    )


def check_layers(model: Any, setting: str, layers: Sequence[int], advice: str = "") -> None:
    """Raise if the model lacks one of these layers.

    Args:
        model: The bare causal language model.
        setting: Name of the setting in the recipe, such as 'method.layer'.
        layers: Layers counted from 0.
        advice: What to do, for the error message.

    Raises:
        IncompatibleError: A layer is outside the model; the message gives the valid range.
    """
    count = len(layer_list(model)[1])
    outside = [layer for layer in layers if not 0 <= layer < count]
    if outside:
        name = getattr(model.config, "_name_or_path", "") or f"this {model.config.model_type}"
        raise IncompatibleError(
            f"{setting}: {', '.join(map(str, outside))} is outside the model ({name} has layers 0-{count - 1}).",
            fix=advice,
        )


def layer_trace(
    model: Any,
    batch: TensorBatch,
    layer: int,
    packing: Packing | None = None,
    first: int = 0,
    entering: Tensor | None = None,
) -> Trace:
    """Run a decoder up to a layer: neither later layers nor the output layer are computed.

    Args:
        model: The bare causal language model.
        batch: B rows of L tokens.
        layer: Last layer that is run, counted from 0.
        packing: How to run the rows without padding (`packing_of`); hidden states of padding are then undefined.
        first: Layer whose input is returned too; 0 for none.
        entering: (B, L, D) input of layer `first`, if it is known: the layers below are then not run.

    Returns:
        The output of the layer, before any final norm, with gradient where its weights have one.
    """
    # A trial must not run on the changed model below.
    output_path(model)
    _, layers = layer_list(model)
    outputs: list[Tensor] = []
    inputs: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        hook = layers[layer].register_forward_hook(lambda module, args, output: outputs.append(hidden_state(output)))
        stack.callback(hook.remove)
        if entering is not None:
            packed = entering if packing is None else packing.pack(entering)
            stack.enter_context(override_outputs((module, packed) for module in layers[:first]))
        elif first:
            hook = layers[first - 1].register_forward_hook(
                lambda module, args, output: inputs.append(hidden_state(output))
            )
            stack.callback(hook.remove)
        stack.enter_context(first_layers(model, layer + 1))
        run_decoder(model, batch, packing)
    hidden, *below = (states if packing is None else packing.unpack(states) for states in (outputs[0], *inputs))
    return Trace(hidden, below[0].detach() if below else None)


@contextlib.contextmanager
def first_layers(model: Any, count: int) -> Iterator[None]:
    """Reduce a decoder to its first layers, followed by its final norm."""
    name, layers = layer_list(model)
    path, _, attribute = name.rpartition(".")
    parent = model.get_submodule(path)
    setattr(parent, attribute, layers[:count])
    try:
        yield
    finally:
        setattr(parent, attribute, layers)


@dataclass(frozen=True)
class States:
    """Hidden states of one forward pass at N positions."""

    layers: Tensor
    """(layers, N, D) outputs of all decoder layers."""
    final: Tensor
    """(N, D) hidden states after the last layer and norm, for `head_of` to project."""


def states_at(model: Any, batch: TensorBatch, rows: Tensor, positions: Tensor) -> States:
    """Run a full decoder, and return the hidden states of all layers at some positions.

    Args:
        model: The bare causal language model.
        batch: B rows of L tokens.
        rows: (N,) row of each position.
        positions: (N,) column of each position.

    Raises:
        IncompatibleError: The model's hidden states cannot be projected to logits.
    """
    outputs: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        for layer in layer_list(model)[1]:
            hook = layer.register_forward_hook(
                lambda module, args, output: outputs.append(hidden_state(output)[rows, positions])
            )
            stack.callback(hook.remove)
        final = final_states(model, batch)[rows, positions]
    return States(torch.stack(outputs), final)


def final_states(model: Any, batch: TensorBatch) -> Tensor:
    """Return the (B, L, D) hidden states after the last layer and norm; hooks on layers see all rows at once.

    Raises:
        IncompatibleError: The model's hidden states cannot be projected to logits.
    """
    if output_path(model).head == "logits":
        raise IncompatibleError(
            f"{type(model).__name__} does not separate its decoder from its output layer, so what its hidden states "
            "predict is unknown.",
            fix="Leave out the audit of hidden states.",
        )
    states: Tensor = run_decoder(model, batch, None).last_hidden_state
    return states


@contextlib.contextmanager
def replace_states(model: Any, layer: int, rows: Tensor, positions: Tensor, states: Tensor) -> Iterator[None]:
    """Replace the output of a layer at N positions by (N, D) states."""

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_state(output).clone()
        hidden[rows, positions] = states.to(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = layer_list(model)[1][layer].register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def normed_states(model: Any, batch: TensorBatch, rows: Tensor, positions: Tensor, states: Tensor) -> Tensor:
    """Apply a model's final norm to (N, D) hidden states, for `head_of` to project.

    The norm has another name in each architecture, so the decoder is run with one layer, whose output is replaced.

    Args:
        model: The bare causal language model.
        batch: Rows with the positions of the states; their tokens do not matter.
        rows: (N,) row of each state.
        positions: (N,) column of each state.
        states: (N, D) hidden states.
    """
    with replace_states(model, 0, rows, positions, states), first_layers(model, 1):
        return final_states(model, batch)[rows, positions]


@contextlib.contextmanager
def override_outputs(outputs: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Make modules return given outputs instead of computing them.

    The modules stay in the model, because models look up settings by a layer's index.
    """
    with contextlib.ExitStack() as stack:
        for module, output in outputs:
            stack.enter_context(override_forward(module, lambda *args, _output=output, **kwargs: _output))
        yield


@contextlib.contextmanager
def add_to_residual(model: Any, layer: int, delta: Tensor) -> Iterator[None]:
    """Add a (B, L, D) tensor to the input of a layer."""
    _, layers = layer_list(model)

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hidden = args[0] if args else kwargs["hidden_states"]
        return with_hidden(args, kwargs, hidden + delta.to(hidden.dtype))

    hook = layers[layer].register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def hidden_state(output: Any) -> Tensor:
    """Return the hidden state among a decoder layer's outputs."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


def with_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a decoder layer's arguments with another hidden state."""
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden}
