"""FSDP2: a model is shared out over processes from the moment it is opened, for training and for measuring alike.

No device ever holds more of a model than its share, the embeddings and output layer, and the layers that are being
run. Whoever asks a model something need not know of shards: its weights come together by themselves.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from expunge import distributed
from expunge.console import is_main_process
from expunge.distributed import from_main, fsdp_enabled, full_tensor
from expunge.modeling.adapters import causal_lm
from expunge.modeling.hidden.trace import layer_list

Value = Callable[[str, Tensor], Tensor]
"""Gives the whole tensor of a name; the second argument has its shape and precision, and no numbers."""


def load_on_device(make: Callable[[torch.device], Any], device: torch.device) -> Any:
    """Make a model on its device; with FSDP in shards, out of one that the main process makes in main memory.

    Args:
        make: Makes the model on the device that it is given; called in the main process alone where there are shards.
        device: Where the model is to be run.
    """
    if not fsdp_enabled():
        return make(device)
    made: Any = None

    def describe() -> Any:
        nonlocal made
        made = make(torch.device("cpu"))
        return _emptied(made)

    mould = from_main(describe)
    tensors = {} if made is None else _tensors(made)

    def send(name: str, like: Tensor) -> Tensor:
        full = torch.empty_like(like, device=device)
        if tensors:
            full.copy_(tensors[name].detach())
        torch.distributed.broadcast(full, src=0)
        return full

    return _in_shards(mould, send, device)


def root_of(model: Any) -> Root | None:
    """What FSDP takes for the outermost module of a model in shards; None for a whole model."""
    root: Root | None = vars(causal_lm(model)).get("_root")
    return root


def reshard(model: Any) -> None:
    """Let go of what was gathered of a model's embeddings and output layer, so that each process has its share only."""
    root: Any = root_of(model)
    if root is not None:
        root.reshard()


def frozen_copy(model: Any) -> Any:
    """A frozen copy in evaluation mode; of a model in shards, in shards as well."""
    root = root_of(model)
    if root is None:
        return copy.deepcopy(model).eval().requires_grad_(False)
    reshard(model)
    tensors = _tensors(model)
    # FSDP looks at this once only, when it first gathers a tensor.
    mould = copy.deepcopy(root.mould).requires_grad_(False)
    return _in_shards(mould, lambda name, like: full_tensor(tensors[name]).detach().clone(), _device(model))


def copied_layer(layer: nn.Module) -> nn.Module:
    """A whole, frozen copy of a module that may be in shards; every process takes part."""
    made = {id(weight): nn.Parameter(full_tensor(weight.detach()).clone(), False) for weight in layer.parameters()}
    return copy.deepcopy(layer, made)  # type: ignore[arg-type]


def gathered(model: Any, *, trained_only: bool = False) -> Any:
    """A whole model in the main process's main memory, to be saved; None in other processes, which take part.

    Tensors come one by one, so that a device never holds two of them whole. A whole model is returned as it is.

    Args:
        model: The model.
        trained_only: Leave everything else without numbers: enough to save an adapter.
    """
    root = root_of(model)
    if root is None:
        return model
    reshard(model)
    found = {}
    for name, tensor in _tensors(model).items():
        if tensor.requires_grad or not trained_only:
            full = full_tensor(tensor.detach())
            if is_main_process():
                found[name] = full.to("cpu", copy=True)
            del full
    if not is_main_process():
        return None
    made = copy.deepcopy(root.mould)
    _fill(made, _names(made), {}, lambda name, like: found.pop(name, like))
    return made


class Root(nn.Module):
    """The outermost module: all that is outside of decoder layers is its group of shards.

    The output layer is called once per chunk of positions, and processes differ in their number of chunks; gathered
    at each call, it would leave them waiting for each other. The group of the outermost module is gathered when the
    decoder is first run, and stays whole: to the end of the backward pass, or until `rest`.

    The model itself is left as it is, and calls to it outside of training come here when they reach its decoder.

    Args:
        model: The model, its decoder layers in shards.
        mould: The same before it was shared out, without numbers.
    """

    def __init__(self, model: Any, mould: Any) -> None:
        super().__init__()
        self.model = model
        self.low: torch.dtype | None = None
        """Precision of training's forward and backward, where it is not that of the weights. The same autocast as
        without shards gives the same numbers; FSDP's own policy would carry hidden states in low precision, too."""
        self.__dict__["mould"] = mould
        self._running = False
        self._turn = distributed.take_turns(self._follow)
        decoder = causal_lm(model).base_model
        self._decode = decoder.forward
        decoder.forward = functools.wraps(self._decode)(lambda *args, **kwargs: self._enter(*args, **kwargs))
        vars(causal_lm(model))["_root"] = self

    def forward(self, run: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """The model's own forward pass, or anything else that runs its decoder."""
        low = self.low if run is None else None
        precision = torch.autocast(_device(self).type, low) if low else contextlib.nullcontext()
        with self._run(), precision, _without_kept_casts():
            return self.model(**inputs) if run is None else run()

    def _enter(self, *args: Any, **kwargs: Any) -> Any:
        # In training this is called inside of `forward` in any case, more than once where a step needs it.
        if self._running:
            return self._decode(*args, **kwargs)
        distributed.announce(self._turn)
        return self(run=functools.partial(self._decode, *args, **kwargs))

    @torch.no_grad()
    def _follow(self) -> None:
        """Run the decoder on a single token, because other processes run it."""
        device, training = _device(self), self.model.training
        self.model.eval()
        ids = torch.zeros((1, 1), dtype=torch.long, device=device)
        self(run=functools.partial(self._decode, input_ids=ids, use_cache=False))
        self.model.train(training)

    @contextlib.contextmanager
    def _run(self) -> Iterator[None]:
        self._running = True
        try:
            yield
        finally:
            self._running = False


def _in_shards(mould: Any, value: Value, device: torch.device) -> Any:
    """A model with the given numbers, shared out block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    model = copy.deepcopy(mould)
    names, made = _names(model), dict[int, Tensor]()
    for layer in layer_list(causal_lm(model))[1]:
        _fill(layer, names, made, value)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    _fill(model, names, made, value)
    root: Any = fully_shard(Root(model, mould), mesh=mesh)
    # FSDP finds its groups at the first pass, which must be one through all layers.
    root._follow()
    root.reshard()
    return model


def _emptied(model: Any) -> Any:
    """A copy without numbers."""

    def empty(tensor: Tensor) -> Tensor:
        meta = tensor.detach().to("meta")
        return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta

    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): empty(tensor) for tensor in tensors})


def _fill(module: Any, names: dict[int, tuple[str, Tensor]], made: dict[int, Tensor], value: Value) -> None:
    """Put numbers where there are none; what is shared stays shared."""
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for key, tensor in own.items():
                if tensor is None or id(tensor) not in names:
                    continue
                if id(tensor) not in made:
                    full = value(names[id(tensor)][0], tensor)
                    is_weight = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(full, tensor.requires_grad) if is_weight else full
                own[key] = made[id(tensor)]


def _names(model: Any) -> dict[int, tuple[str, Tensor]]:
    """Name of each tensor by its identity, which holds as long as the tensor is kept."""
    return {id(tensor): (name, tensor) for name, tensor in _tensors(model).items()}


def _tensors(model: Any) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


@contextlib.contextmanager
def _without_kept_casts() -> Iterator[None]:
    """Autocast would keep the casts of all layers, which are the whole model."""
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
