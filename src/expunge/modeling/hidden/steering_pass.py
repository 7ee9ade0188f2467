"""Hidden states at one decoder layer under trained and frozen weights, at a fraction of two forward passes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.distributed import fsdp_enabled, full_tensor
from expunge.errors import IncompatibleError
from expunge.modeling.batch import TensorBatch, take
from expunge.modeling.forward import output_path, override_forward, packing_of
from expunge.modeling.hidden.row_store import RowStore, Visits, can_store, widest_padding
from expunge.modeling.hidden.trace import (
    hidden_state,
    layer_list,
    layer_trace,
    override_outputs,
    with_hidden,
)
from expunge.modeling.packing import Packing

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a module."""


class SteeringPass:
    """Runs a model up to one decoder layer, under its trained weights and under those at the start of training.

    The hidden states equal those of two full forward passes of two models. Four speed-ups avoid most of that work:

    1. Early stop. Layers above the steered one and the output layer are not run (`layer_trace`).
    2. Shared prefix. Up to the first trained weight both models are the same. The frozen pass continues from the
       trained one there, with frozen copies of the trained tensors only; no second model is kept (`_frozen_hidden`).
    3. Row store. The input of the lowest trained layer and the frozen hidden states never change during a training,
       so they are stored at a row's first visit and read at later ones (`store_rows`, `RowStore`). Equal to
       recomputing them to the last bit in equal batches, otherwise to rounding: a matrix product of another shape may
       add in another order.
    4. Answer positions. Where only answer tokens count, rows are run without padding, and the MLP of the steered layer
       at answer tokens only (`mlp_at`).

    Args:
        model: The bare causal language model at the start of training, with gradients left to the trained tensors.
        layer: The steered layer, counted from 0; no trained tensor may be above it.

    Raises:
        IncompatibleError: A trained tensor is not part of a decoder layer.
    """

    def __init__(self, model: Any, layer: int) -> None:
        self._model, self._layer = model, layer
        prefix, self._layers = layer_list(model)
        self._frozen: dict[int, dict[str, Tensor]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if not name.startswith(f"{prefix}."):
                raise IncompatibleError(f"{name} is trained, but is not part of a decoder layer.")
            index, inner = name.removeprefix(f"{prefix}.").split(".", 1)
            self._frozen.setdefault(int(index), {})[inner] = full_tensor(parameter.detach()).clone()
        self.first = min(self._frozen)
        """Lowest trained layer."""
        self.store: RowStore | None = None
        """Stored hidden states; None until `store_rows`."""

    def store_rows(self, visits: Visits, num_bytes: float, *, padding: bool, longest: int = 0) -> str:
        """Store hidden states of rows that are visited again, from their first visit to their last.

        Args:
            visits: How often each row is visited, by set.
            num_bytes: Most CPU memory that is used.
            padding: Whether hidden states of padding count too.
            longest: Tokens of the longest row.

        Returns:
            Why nothing can be stored; empty if rows are stored.
        """
        if not any(count > 1 for counts in visits.values() for count in counts.values()):
            return "no row whose hidden states could be stored is visited twice in this training"
        if fsdp_enabled():
            return "with FSDP all processes must run the same layers at the same time"
        if not can_store(self._model, self.first, self._layer, padding, longest):
            return "this model's layers give a row different hidden states each time"
        widest = widest_padding(self._model)
        self.store = RowStore(self.first, num_bytes, visits, padding=padding, widest=widest)
        return ""

    def hidden(
        self, batch: TensorBatch, packed: bool = False, name: str = "", rows: Sequence[int] | None = None
    ) -> Tensor:
        """Return the (B, L, D) output of the steered layer under the trained weights, with gradient.

        Args:
            batch: B rows of L tokens, padded on the right if they are stored.
            packed: Whether only answer tokens count; hidden states of all other tokens are then undefined.
            name: Set of the rows.
            rows: Index of each row within its set; None stores and reads nothing.
        """
        return self._run(batch, packed, name, rows, frozen=False)[0]

    def hidden_and_frozen(
        self, batch: TensorBatch, packed: bool = False, name: str = "", rows: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `hidden` does, and the same under the frozen weights, without gradient."""
        trained, frozen = self._run(batch, packed, name, rows, frozen=True)
        assert frozen is not None
        return trained, frozen

    def _run(
        self, batch: TensorBatch, packed: bool, name: str, rows: Sequence[int] | None, *, frozen: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Read the rows that are stored, compute all other rows, and return both in the batch's order."""
        store = self.store
        if store is None or rows is None:
            return self._compute(batch, packed, frozen=frozen)[:2]
        is_stored = store.contains(name, rows, batch)
        indices: list[int] = []
        results: list[tuple[Tensor, Tensor | None]] = []
        for reading in (True, False):
            chosen = [index for index, stored in enumerate(is_stored) if stored is reading]
            if not chosen:
                continue
            chosen_rows = [rows[index] for index in chosen]
            chosen_batch = batch if len(chosen) == len(rows) else take(batch, chosen)
            if reading:
                states = store.read(name, chosen_rows, chosen_batch)
                entering = states[0] if self.first else None
                hidden = self._trained(chosen_batch, packed, first=self.first, entering=entering).hidden
                results.append((hidden, states[-1] if frozen else None))
            else:
                again = any(store.visited_again(name, row) for row in chosen_rows)
                hidden, reference, entering = self._compute(
                    chosen_batch, packed, frozen=frozen, first=self.first if again else 0
                )
                if again:
                    states = [tensor for tensor in (entering, reference) if tensor is not None]
                    store.keep(name, chosen_rows, chosen_batch, states)
                results.append((hidden, reference))
            indices += chosen
        store.count_visit(name, rows)
        if len(results) == 1:
            return results[0]
        order = torch.as_tensor(np.argsort(indices), device=batch.input_ids.device)
        trained = torch.cat([hidden for hidden, _ in results])[order]
        references = [reference for _, reference in results if reference is not None]
        return trained, torch.cat(references)[order] if frozen else None

    def _compute(
        self, batch: TensorBatch, packed: bool, *, frozen: bool, first: int = 0
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return trained and frozen hidden states, and the input of layer `first`."""
        passed = self._trained(batch, packed, record=frozen, first=first)
        return passed.hidden, self._frozen_hidden(passed) if frozen else None, passed.entering

    def _trained(
        self,
        batch: TensorBatch,
        packed: bool,
        *,
        record: bool = False,
        first: int = 0,
        entering: Tensor | None = None,
    ) -> _TrainedPass:
        """Run the trained weights, and record what the frozen pass continues from."""
        # A trial must not run on the changed layers below.
        output_path(self._model)
        packing = packing_of(self._model, batch, packed)
        positions: Tensor | None = None
        if packed:
            # The answer's own tokens, one to the right of the positions that predict them.
            positions = batch.rows * batch.input_ids.shape[1] + batch.positions + 1
            if packing is not None:
                positions = packing.back[positions].sort().values
        arguments: dict[int, Arguments] = {}
        outputs: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(mlp_at(self._layers[self._layer], positions)):
                positions = None
            if record:
                for index in range(self.first, self._layer + 1):
                    stack.enter_context(_record_arguments(self._layers[index], arguments, index))
                outputs = stack.enter_context(record_outputs(self._layers[self.first]))
            trace = layer_trace(self._model, batch, self._layer, packing, first, entering)
        return _TrainedPass(trace.hidden, trace.entering, packing, positions, arguments, outputs)

    @torch.no_grad()
    def _frozen_hidden(self, passed: _TrainedPass) -> Tensor:
        """Run the layers from the lowest trained one on again, with the frozen weights and without dropout."""
        hidden: Tensor | None = None
        for index in sorted(passed.arguments):
            layer = self._layers[index]
            args, kwargs = passed.arguments[index]
            if hidden is not None:
                args, kwargs = with_hidden(args, kwargs, hidden)
            weights = {f"layer.{name}": tensor for name, tensor in self._frozen.get(index, {}).items()}
            with contextlib.ExitStack() as stack:
                stack.callback(layer.train, layer.training)
                layer.eval()
                stack.enter_context(_unsharded(layer))
                if index == self.first:
                    stack.enter_context(replay_outputs(layer, passed.outputs))
                if index == self._layer:
                    stack.enter_context(mlp_at(layer, passed.positions))
                hidden = hidden_state(torch.func.functional_call(_WithoutHooks(layer), weights, args, kwargs))
        assert hidden is not None
        return hidden if passed.packing is None else passed.packing.unpack(hidden)


@dataclass(frozen=True)
class _TrainedPass:
    """Result of a forward pass with the trained weights, and what the frozen pass continues from."""

    hidden: Tensor
    """(B, L, D) output of the steered layer."""
    entering: Tensor | None
    """(B, L, D) input of the lowest trained layer, if it is to be stored."""
    packing: Packing | None
    """How the rows were packed."""
    positions: Tensor | None
    """Where the steered layer's MLP was computed; None for everywhere."""
    arguments: dict[int, Arguments]
    """Arguments of the layers from the lowest trained one on, by index."""
    outputs: dict[str, Any]
    """Recorded outputs of the lowest trained layer's submodules, by name."""


class _WithoutHooks(nn.Module):
    """Calls a layer's forward function without its hooks.

    FSDP's hooks would reshard the layer's weights while the frozen ones are in their place.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        return self.layer.forward(*args, **kwargs)


@contextlib.contextmanager
def record_outputs(layer: nn.Module) -> Iterator[dict[str, Any]]:
    """Record the outputs of a layer's submodules that run before its first trained weight.

    With other values in the trained weights these outputs stay the same. Of nested submodules the outermost is
    recorded. Nothing is recorded for a layer with dropout, nor for one that uses a trained weight without calling the
    module that owns it.
    """
    outputs: dict[str, Any] = {}
    calls: Counter[str] = Counter()
    owners = [name for name, module in layer.named_modules() if _is_trained(module, recurse=False)]

    def count(name: str) -> Any:
        def before(module: nn.Module, args: Any) -> None:
            calls[name] += 1

        return before

    def record(name: str) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            if not any(calls[owner] for owner in owners):
                for inner in [inner for inner in outputs if inner.startswith(f"{name}.")]:
                    del outputs[inner]
                outputs[name] = _detached(output)

        return after

    def drop_ambiguous(module: nn.Module, args: Any, output: Any) -> None:
        # A submodule that ran twice has two outputs, and an owner that never ran may have been used at any time.
        for name in [name for name in outputs if calls[name] > 1 or not all(calls[owner] for owner in owners)]:
            del outputs[name]

    with contextlib.ExitStack() as stack:
        for name, module in () if _is_random(layer) else layer.named_modules():
            stack.callback(module.register_forward_pre_hook(count(name)).remove)
            if list(module.parameters()) and not _is_trained(module, recurse=True):
                stack.callback(module.register_forward_hook(record(name)).remove)
        stack.callback(layer.register_forward_hook(drop_ambiguous).remove)
        yield outputs


def replay_outputs(layer: nn.Module, outputs: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Make the submodules of a layer return their recorded outputs."""
    return override_outputs((layer.get_submodule(name), output) for name, output in outputs.items())


@contextlib.contextmanager
def mlp_at(layer: nn.Module, positions: Tensor | None) -> Iterator[bool]:
    """Compute a layer's MLP at given positions only; it adds nothing elsewhere.

    The layer is unchanged if its MLP is not known to treat each position by itself.

    Args:
        layer: A decoder layer that is run on hidden states (B, L, D).
        positions: Flat indices into (B, L), ascending; None for all positions.

    Yields:
        Whether the MLP is computed at these positions only.
    """
    mlp = getattr(layer, "mlp", None)
    # A checkpointed layer runs a second time in the backward pass, when this context is closed.
    checkpointed = layer.training and getattr(layer, "gradient_checkpointing", False)
    if positions is None or checkpointed or not isinstance(mlp, nn.Module) or not _is_positionwise(mlp):
        yield False
        return
    original = mlp.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        flat = hidden.flatten(0, 1)
        selected = original(flat.index_select(0, positions)[None], *args, **kwargs)[0]
        result: Tensor = selected.new_zeros(flat.shape).index_copy(0, positions, selected)
        return result.view_as(hidden)

    with override_forward(mlp, forward):
        yield True


@contextlib.contextmanager
def _record_arguments(layer: nn.Module, arguments: dict[int, Arguments], index: int) -> Iterator[None]:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments[index] = (args, kwargs)

    hook = layer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _unsharded(layer: Any) -> Iterator[None]:
    """Gather the weights of a layer that FSDP has sharded.

    If FSDP's own hook gathered them later, the trained weights would replace the frozen ones.
    """
    if not hasattr(layer, "unshard"):
        yield
        return
    layer.unshard()
    yield
    layer.reshard()


def _is_positionwise(mlp: nn.Module) -> bool:
    """Return whether all weights of a module are matrices that map one position at a time."""
    return all(
        isinstance(module, nn.Linear | Conv1D) or not list(module.parameters(recurse=False)) for module in mlp.modules()
    ) and not _is_random(mlp)


def _is_trained(module: nn.Module, *, recurse: bool) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=recurse))


def _is_random(module: nn.Module) -> bool:
    """Return whether a module gives different outputs for equal inputs, as dropout does.

    Decoders keep the probability in an `nn.Dropout` or in an attribute such as `attention_dropout`.
    """
    return module.training and any(
        isinstance(value, float) and value > 0 and (name == "p" or "drop" in name)
        for submodule in module.modules()
        for name, value in vars(submodule).items()
    )


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(item) for item in output)
    return output.detach() if isinstance(output, Tensor) else output
