"""Parts of a decoder layer whose result is known, or that nobody looks at, and that are then not computed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@contextlib.contextmanager
def override_outputs(outputs: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    """While this is open, modules give a known output instead of computing one.

    They stay where they are, since models look things up by a layer's number.
    """
    with contextlib.ExitStack() as stack:
        for module, output in outputs:
            stack.enter_context(_forward(module, lambda *args, _output=output, **kwargs: _output))
        yield


@contextlib.contextmanager
def record_outputs(layer: nn.Module) -> Iterator[dict[str, Any]]:
    """While this is open, what a layer computes before its first trained weight is kept, by submodule.

    The same layer with other values in its trained weights gives the same there. Of submodules within each other the
    outermost is kept. Nothing is kept of a layer with dropout, nor of one that uses a trained weight without calling
    the module that it belongs to.
    """
    outputs: dict[str, Any] = {}
    calls: Counter[str] = Counter()
    owners = [name for name, module in layer.named_modules() if _trained(module, inside=False)]

    def count(name: str) -> Any:
        def before(module: nn.Module, args: Any) -> None:
            calls[name] += 1

        return before

    def keep(name: str) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            if not any(calls[owner] for owner in owners):
                for inner in [each for each in outputs if each.startswith(f"{name}.")]:
                    del outputs[inner]
                outputs[name] = _detached(output)

        return after

    def check(module: nn.Module, args: Any, output: Any) -> None:
        # A submodule that came twice has two outputs.
        for name in [name for name in outputs if calls[name] > 1 or not all(calls[owner] for owner in owners)]:
            del outputs[name]

    with contextlib.ExitStack() as stack:
        for name, module in () if _is_random(layer) else layer.named_modules():
            stack.callback(module.register_forward_pre_hook(count(name)).remove)
            if list(module.parameters()) and not _trained(module, inside=True):
                stack.callback(module.register_forward_hook(keep(name)).remove)
        stack.callback(layer.register_forward_hook(check).remove)
        yield outputs


def replay_outputs(layer: nn.Module, outputs: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """While this is open, the submodules that were recorded give what they gave."""
    return override_outputs((layer.get_submodule(name), output) for name, output in outputs.items())


@contextlib.contextmanager
def mlp_at(layer: nn.Module, places: Tensor | None) -> Iterator[bool]:
    """While this is open, a layer's MLP is computed at some positions only, and adds nothing at the others.

    Nothing changes for a layer whose MLP is not known to look at each position alone.

    Args:
        layer: A decoder layer that is run on hidden states (B, L, D).
        places: Flat indices into (B, L), ascending; None for all positions.

    Yields:
        Whether it is computed at these positions only.
    """
    mlp = getattr(layer, "mlp", None)
    # A checkpointed layer is run once more when this is no longer open.
    repeated = layer.training and getattr(layer, "gradient_checkpointing", False)
    if places is None or repeated or not isinstance(mlp, nn.Module) or not _is_positionwise(mlp):
        yield False
        return
    own = mlp.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        flat = hidden.flatten(0, 1)
        part = own(flat.index_select(0, places)[None], *args, **kwargs)[0]
        whole: Tensor = part.new_zeros(flat.shape).index_copy(0, places, part)
        return whole.view_as(hidden)

    with _forward(mlp, forward):
        yield True


@contextlib.contextmanager
def _forward(module: nn.Module, forward: Any) -> Iterator[None]:
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _is_positionwise(mlp: nn.Module) -> bool:
    """Whether all weights are matrices that map one position's values to another's."""
    return all(
        isinstance(module, nn.Linear | Conv1D) or not list(module.parameters(recurse=False)) for module in mlp.modules()
    ) and not _is_random(mlp)


def _trained(module: nn.Module, *, inside: bool) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=inside))


def _is_random(module: nn.Module) -> bool:
    """Whether the same input gives another output each time: with dropout, a module or a number of some name."""
    return module.training and any(
        isinstance(value, float) and value > 0 and (name == "p" or "drop" in name)
        for each in module.modules()
        for name, value in vars(each).items()
    )


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(each) for each in output)
    return output.detach() if isinstance(output, Tensor) else output
