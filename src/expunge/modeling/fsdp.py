"""FSDP2: shard models from the moment they are loaded, for training and measuring alike.

A device never stores more of a model than its shard, the embeddings and the output layer, and the layers that are
being run. Code that calls a sharded model need not handle this: weights are gathered when the decoder is run.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from expunge import distributed
from expunge.console import is_main_process
from expunge.distributed import fsdp_enabled, full_tensor, run_on_main
from expunge.modeling.adapters import causal_lm
from expunge.modeling.forward import decoder_of, output_path
from expunge.modeling.hidden.trace import layer_list
from expunge.modeling.types import ModuleLike, TrainedModel

M = TypeVar("M", bound=TrainedModel)

TensorSource = Callable[[str, Tensor], Tensor]
"""Returns the full tensor of a name; its second argument is a meta tensor with the same shape and dtype."""


def load_on_device(make: Callable[[torch.device], M], device: torch.device) -> M:
    """Load a model on its device; with FSDP, load it on rank 0 in CPU memory and shard it layer by layer.

    Args:
        make: Creates the model on the given device; with FSDP called on rank 0 only.
        device: Device that runs the model.
    """
    if not fsdp_enabled():
        model = make(device)
        output_path(causal_lm(model))
        return model
    full_model: M | None = None

    def make_skeleton() -> M:
        nonlocal full_model
        full_model = make(torch.device("cpu"))
        # The trial runs on this rank alone; the skeleton carries its result to the others.
        output_path(causal_lm(full_model))
        return _to_meta(full_model)

    skeleton = run_on_main(make_skeleton)
    tensors = {} if full_model is None else _tensors(full_model)

    def broadcast(name: str, meta: Tensor) -> Tensor:
        full = torch.empty_like(meta, device=device)
        if tensors:
            full.copy_(tensors[name].detach())
        torch.distributed.broadcast(full, src=0)
        return full

    return _shard(skeleton, broadcast, device)


def fsdp_root(model: TrainedModel) -> FsdpRoot | None:
    """Return the FSDP root module of a sharded model, or None for an unsharded model."""
    root: FsdpRoot | None = vars(causal_lm(model)).get("_root")
    return root


def reshard(model: TrainedModel) -> None:
    """Free the gathered embeddings and output layer of a sharded model; an unsharded model is not changed."""
    root = fsdp_root(model)
    if root is not None:
        root.reshard()


def frozen_copy(model: M) -> M:
    """Return a frozen copy in evaluation mode; the copy of a sharded model is sharded too."""
    root = fsdp_root(model)
    if root is None:
        frozen = copy.deepcopy(model)
        frozen.eval().requires_grad_(False)
        return frozen
    reshard(model)
    tensors = _tensors(model)
    # FSDP reads `requires_grad` only when it first gathers a tensor, so freezing the copy later has no effect.
    skeleton = cast(M, copy.deepcopy(root.meta_skeleton).requires_grad_(False))
    return _shard(skeleton, lambda name, meta: full_tensor(tensors[name]).detach().clone(), _device(model))


def frozen_layer_copy(layer: nn.Module) -> nn.Module:
    """Return a full, frozen copy of a module that may be sharded; every process takes part."""
    full_weights = {
        id(weight): nn.Parameter(full_tensor(weight.detach()).clone(), requires_grad=False)
        for weight in layer.parameters()
    }
    # deepcopy's memo maps the id of each weight to its copy.
    return copy.deepcopy(layer, full_weights)  # type: ignore[arg-type]


def gather_full_model(model: M, *, trained_only: bool = False) -> M | None:
    """Gather a sharded model in the CPU memory of rank 0, to save it; other ranks take part and get None.

    Tensors are gathered one at a time, so a device never stores two full ones. An unsharded model is returned as it
    is, on every rank.

    Args:
        model: The model.
        trained_only: Leave all other tensors on the meta device, which is enough to save an adapter.
    """
    root = fsdp_root(model)
    if root is None:
        return model
    reshard(model)
    full_tensors = {}
    for name, tensor in _tensors(model).items():
        if tensor.requires_grad or not trained_only:
            full = full_tensor(tensor.detach())
            if is_main_process():
                full_tensors[name] = full.to("cpu", copy=True)
            # Free it before the next one is gathered.
            del full
    if not is_main_process():
        return None
    full_model = cast(M, copy.deepcopy(root.meta_skeleton))
    _materialize(full_model, _names(full_model), {}, lambda name, meta: full_tensors.pop(name, meta))
    return full_model


class FsdpRoot(nn.Module):
    """The root module of a sharded model: its FSDP group contains everything outside the decoder layers.

    The output layer is called once per chunk of positions, and the number of chunks differs between processes. If
    FSDP gathered it at each call, processes would deadlock. The root's group is gathered when the decoder is run
    instead, and stays gathered until the end of the backward pass, or until `reshard`.

    The wrapped model remains usable: outside of training, running its decoder enters this root by itself.

    Args:
        model: The model, with its decoder layers sharded.
        meta_skeleton: The model before it was sharded, on the meta device.
    """

    meta_skeleton: TrainedModel
    """The model before it was sharded, on the meta device."""
    reshard: Callable[[], None]
    """Frees the gathered group; added by `fully_shard`."""

    def __init__(self, model: TrainedModel, meta_skeleton: TrainedModel) -> None:
        super().__init__()
        self.model = model
        self.autocast_dtype: torch.dtype | None = None
        """Precision of the training passes, if it is not that of the weights. Autocast gives the same numbers as
        without FSDP; FSDP's mixed-precision policy would also cast the hidden states between layers."""
        # Bypass nn.Module.__setattr__, which would register the skeleton as a submodule.
        self.__dict__["meta_skeleton"] = meta_skeleton
        self._running = False
        self._number = distributed.register_sharded_model(self._dummy_pass)
        decoder = decoder_of(causal_lm(model))
        self._decode = decoder.forward
        decoder.forward = functools.wraps(self._decode)(lambda *args, **kwargs: self._enter(*args, **kwargs))
        vars(causal_lm(model))["_root"] = self

    def forward(self, run: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """Run the model's forward pass on `inputs`, or `run`, which runs its decoder in any other way."""
        dtype = self.autocast_dtype if run is None else None
        precision = torch.autocast(_device(self).type, dtype) if dtype else contextlib.nullcontext()
        self._running = True
        try:
            with precision, _autocast_cache_disabled():
                return self.model(**inputs) if run is None else run()
        finally:
            self._running = False

    def _enter(self, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder inside `forward`, where FSDP gathers the root's group."""
        # In training this is called from within `forward`, several times if a step needs several passes.
        if self._running:
            return self._decode(*args, **kwargs)
        distributed.announce_forward(self._number)
        return self(run=functools.partial(self._decode, *args, **kwargs))

    @torch.no_grad()
    def _dummy_pass(self) -> None:
        """Run the decoder on a single token, to take part in the collectives of a pass on other ranks."""
        device, training = _device(self), self.model.training
        self.model.eval()
        ids = torch.zeros((1, 1), dtype=torch.long, device=device)
        self(run=functools.partial(self._decode, input_ids=ids, use_cache=False))
        self.model.train(training)


def _shard(skeleton: M, source: TensorSource, device: torch.device) -> M:
    """Return a sharded model with the tensors that `source` returns, materialised one layer at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    model = copy.deepcopy(skeleton)
    names, materialized = _names(model), dict[int, Tensor]()
    for layer in layer_list(causal_lm(model))[1]:
        _materialize(layer, names, materialized, source)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    _materialize(model, names, materialized, source)
    root = FsdpRoot(model, skeleton)
    fully_shard(root, mesh=mesh)
    # FSDP initialises its groups in the first forward pass, which has to run through all layers.
    root._dummy_pass()
    root.reshard()
    return model


def _to_meta(model: M) -> M:
    """Return a copy on the meta device."""

    def to_meta(tensor: Tensor) -> Tensor:
        meta = tensor.detach().to("meta")
        return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta

    tensors = itertools.chain(model.parameters(), model.buffers())
    # deepcopy's memo maps the id of each tensor to its copy, so that no data is copied.
    return copy.deepcopy(model, {id(tensor): to_meta(tensor) for tensor in tensors})


def _materialize(
    module: ModuleLike, names: dict[int, tuple[str, Tensor]], materialized: dict[int, Tensor], source: TensorSource
) -> None:
    """Replace a module's meta tensors by those that `source` returns; tied tensors stay tied.

    Args:
        module: The model or a layer of it.
        names: Names of the model's meta tensors (`_names`).
        materialized: Tensors by the id of the meta tensor that they replaced; extended by this call.
        source: Returns the full tensor of a name.
    """
    for submodule in module.modules():
        for tensors in (submodule._parameters, submodule._buffers):
            for key, meta in tensors.items():
                if meta is None or id(meta) not in names:
                    continue
                if id(meta) not in materialized:
                    full = source(names[id(meta)][0], meta)
                    is_weight = isinstance(meta, nn.Parameter)
                    materialized[id(meta)] = nn.Parameter(full, meta.requires_grad) if is_weight else full
                tensors[key] = materialized[id(meta)]  # type: ignore[assignment]


def _names(model: ModuleLike) -> dict[int, tuple[str, Tensor]]:
    """Return the name of each tensor by its id, with the tensor itself, since the id of a freed one is reused."""
    return {id(tensor): (name, tensor) for name, tensor in _tensors(model).items()}


def _tensors(model: ModuleLike) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _device(model: ModuleLike) -> torch.device:
    return next(model.parameters()).device


@contextlib.contextmanager
def _autocast_cache_disabled() -> Iterator[None]:
    """Disable autocast's cache, which would store casts of all gathered layers: a full copy of the model."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
