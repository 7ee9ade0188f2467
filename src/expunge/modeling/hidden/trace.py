"""Hidden states inside a decoder: the forward pass stops at the layer that is asked for.

No output layer is run and no layer above the last one that matters. The frozen model's hidden states come from
the same forward pass: only the layers that can have changed are run once more, with the start's weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from expunge.distributed import full_tensor
from expunge.errors import IncompatibleError
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import packing_of, run_decoder
from expunge.modeling.hidden.partial import mlp_at, override_outputs, record_outputs, replay_outputs
from expunge.modeling.packing import Packing


@dataclass(frozen=True)
class Trace:
    """One forward pass up to a layer."""

    hidden: Tensor
    """(B, L, D) output of the last layer that was run."""
    inputs: dict[int, tuple[tuple[Any, ...], dict[str, Any]]]
    """Arguments of the layers that were asked to keep them, by layer; of packed rows where these were run."""
    packing: Packing | None = None
    """How rows were packed."""
    entering: Tensor | None = None
    """(B, L, D) what went into the layer that was asked for it."""
    unchanged: Mapping[str, Any] = field(default_factory=dict)
    """What submodules of the lowest kept layer gave before its first trained weight."""
    places: Tensor | None = None
    """Where the last layer's MLP was computed (see `mlp_at`)."""

    def unpacked(self, hidden: Tensor) -> Tensor:
        """(B, L, D) from what a layer gave."""
        return hidden if self.packing is None else self.packing.unpack(hidden)


def layer_list(model: Any) -> tuple[str, nn.ModuleList]:
    """Name and list of a causal language model's decoder layers, such as 'model.layers'.

    Raises:
        IncompatibleError: The model has no list of as many modules as its config has layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise IncompatibleError(
        f"the architecture {model.config.model_type} has no list of its {count} decoder layers, "
        "so its hidden states cannot be steered.",
        fix="Use a decoder of the usual kind (Llama, Mistral, Qwen, Gemma, Phi, GPT-NeoX, ...).",
    )


def layer_trace(
    model: Any,
    batch: TensorBatch,
    layer: int,
    keep_from: int | None = None,
    packed: bool = False,
    first: int = 0,
    entering: Tensor | None = None,
) -> Trace:
    """Run a decoder as far as a layer.

    Args:
        model: The bare causal language model.
        batch: B rows of L tokens.
        layer: The last layer that is run, counted from 0.
        keep_from: Also keep the arguments of the layers from here on, to run them again with other weights.
        packed: Run the rows without their padding, and the last layer's MLP at the answers' own tokens only: the hidden
            states of all else then mean nothing.
        first: Unless it is 0, give what enters this layer too.
        entering: (B, L, D) what enters it, where that is known: the layers below are not run.

    Returns:
        The output of the layer, before any final norm, with gradient where its weights have one.
    """
    _, layers = layer_list(model)
    inputs: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    outputs: list[Tensor] = []
    below: list[Tensor] = []

    def keeper(index: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[index] = (args, kwargs)

        return keep

    with contextlib.ExitStack() as stack:
        for index in range(layer + 1 if keep_from is None else keep_from, layer + 1):
            stack.enter_context(_removed(layers[index].register_forward_pre_hook(keeper(index), with_kwargs=True)))
        hook = layers[layer].register_forward_hook(lambda module, args, output: outputs.append(_state(output)))
        stack.enter_context(_removed(hook))
        packing = packing_of(model, batch, packed)
        places = _answer_places(batch, packing) if packed else None
        places = places if stack.enter_context(mlp_at(layers[layer], places)) else None
        unchanged = {} if keep_from is None else stack.enter_context(record_outputs(layers[keep_from]))
        if entering is not None:
            given = entering if packing is None else packing.pack(entering)
            stack.enter_context(override_outputs((each, given) for each in layers[:first]))
        elif first:
            hook = layers[first - 1].register_forward_hook(lambda module, args, output: below.append(_state(output)))
            stack.enter_context(_removed(hook))
        stack.enter_context(_cut(model, layer + 1))
        run_decoder(model, batch, packing)
    hidden, *known = (each if packing is None else packing.unpack(each) for each in (outputs[0], *below))
    return Trace(hidden, inputs, packing, known[0].detach() if known else None, unchanged, places)


def _answer_places(batch: TensorBatch, packing: Packing | None) -> Tensor:
    """Flat indices of the answers' own tokens among the positions that are run."""
    flat = batch.rows * batch.input_ids.shape[1] + batch.positions + 1
    return flat if packing is None else packing.back[flat].sort().values


class FrozenLayers:
    """The start's weights of the few tensors that are trained, to run their layers as they were.

    Everything below the lowest of them is the same in both models, so its result is taken from the current
    model's forward pass; no second model is kept.

    Args:
        model: The bare causal language model at its start, with gradients left to the trained tensors only.

    Raises:
        IncompatibleError: A trained tensor is not part of a decoder layer.
    """

    def __init__(self, model: Any) -> None:
        prefix, _ = layer_list(model)
        self._tensors: dict[int, dict[str, Tensor]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if not name.startswith(f"{prefix}."):
                raise IncompatibleError(f"{name} is trained, but is not part of a decoder layer.")
            index, inner = name.removeprefix(f"{prefix}.").split(".", 1)
            self._tensors.setdefault(int(index), {})[inner] = full_tensor(parameter.detach()).clone()

    @property
    def first(self) -> int:
        """The lowest layer that can have changed."""
        return min(self._tensors)

    @torch.no_grad()
    def hidden(self, model: Any, trace: Trace) -> Tensor:
        """(B, L, D) what the traced forward pass would have given with the start's weights.

        Args:
            model: The model that was traced.
            trace: Its forward pass, with the arguments kept from `first` on.
        """
        _, layers = layer_list(model)
        hidden: Tensor | None = None
        for index in sorted(trace.inputs):
            args, kwargs = trace.inputs[index]
            if hidden is not None:
                args, kwargs = _with_hidden(args, kwargs, hidden)
            tensors = {f"layer.{name}": tensor for name, tensor in self._tensors.get(index, {}).items()}
            with contextlib.ExitStack() as stack:
                stack.enter_context(_evaluating(layers[index]))
                stack.enter_context(_unsharded(layers[index]))
                if index == self.first:
                    stack.enter_context(replay_outputs(layers[index], trace.unchanged))
                if index == max(trace.inputs):
                    stack.enter_context(mlp_at(layers[index], trace.places))
                hidden = _state(torch.func.functional_call(_Bare(layers[index]), tensors, args, kwargs))
        return trace.hidden.detach() if hidden is None else trace.unpacked(hidden)


class _Bare(nn.Module):
    """A layer without its hooks: FSDP's would let its weights go while others still stand in their place."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own forward pass."""
        return self.layer.forward(*args, **kwargs)


@contextlib.contextmanager
def add_to_residual(model: Any, layer: int, delta: Tensor) -> Iterator[None]:
    """While this is open, a (B, L, D) tensor is added to what goes into a layer."""
    _, layers = layer_list(model)

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = args[0] if args else kwargs["hidden_states"]
        return _with_hidden(args, kwargs, given + delta.to(given.dtype))

    with _removed(layers[layer].register_forward_pre_hook(add, with_kwargs=True)):
        yield


def check_layers(model: Any, setting: str, layers: Sequence[int], published: str = "") -> None:
    """Refuse layers that the model does not have.

    Args:
        model: The bare causal language model.
        setting: Name of the setting in the recipe, such as 'method.layer'.
        layers: Layers counted from 0.
        published: What the paper chose and what would correspond to it here.

    Raises:
        IncompatibleError: One of them is outside; the message says which there are.
    """
    count = len(layer_list(model)[1])
    outside = [layer for layer in layers if not 0 <= layer < count]
    if outside:
        name = getattr(model.config, "_name_or_path", "") or f"this {model.config.model_type}"
        raise IncompatibleError(
            f"{setting}: {', '.join(map(str, outside))} is outside the model ({name} has layers 0-{count - 1}).",
            fix=published,
        )


@contextlib.contextmanager
def _cut(model: Any, count: int) -> Iterator[None]:
    """While this is open, the decoder has only its first layers."""
    name, layers = layer_list(model)
    path, _, attribute = name.rpartition(".")
    parent = model.get_submodule(path)
    setattr(parent, attribute, layers[:count])
    try:
        yield
    finally:
        setattr(parent, attribute, layers)


@contextlib.contextmanager
def _removed(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextlib.contextmanager
def _unsharded(layer: Any) -> Iterator[None]:
    """While this is open, a layer that FSDP shares out over processes is whole.

    Gathered by its own hook instead, the trained weights would replace those that it was asked to run with.
    """
    if not hasattr(layer, "unshard"):
        yield
        return
    layer.unshard()
    yield
    layer.reshard()


def _state(output: Any) -> Tensor:
    """The hidden state among a layer's outputs."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


def _with_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden}
