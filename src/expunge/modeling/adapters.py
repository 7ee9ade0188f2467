"""LoRA through peft: the base model stays frozen and, with the adapter off, is the reference."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.config.recipe import Lora
from expunge.errors import IncompatibleError

if TYPE_CHECKING:
    from torch import Tensor


def add_lora(model: Any, config: Lora, seed: int) -> Any:
    """Wrap a model with a fresh adapter; its first forward pass equals the model's own.

    Raises:
        IncompatibleError: A target module name matches nothing.
    """
    import peft

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted = peft.get_peft_model(model, settings)
        except ValueError as error:
            linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
            raise IncompatibleError(
                f"model.lora.targets {config.targets} match no module of this model.",
                allowed=f"Its linear modules are {', '.join(linear)}.",
            ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def lora_layers(model: Any) -> dict[str, Any]:
    """The adapted layers of a model by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def fill_adapter(model: Any, parts: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write low-rank matrices into a fresh adapter, which then adds BA to each weight.

    Where A and B have fewer directions than the adapter, the others stay as in plain LoRA.

    Args:
        model: A model with an adapter.
        parts: Per adapted layer, A (r, in) and B (out, r).
    """
    layers = lora_layers(model)
    for name, (a, b) in parts.items():
        layer, root = layers[name], layers[name].scaling["default"] ** 0.5
        layer.lora_A["default"].weight.data[: len(a)] = a / root
        layer.lora_B["default"].weight.data[:, : len(a)] = b / root


def start_from(model: Any, folder: Path) -> None:
    """Load a saved adapter into a model's fresh one and take what it adds out of the weights.

    The model's output stays the same, to the rounding of the weights' precision; its base is now W - BA.
    """
    import peft

    peft.set_peft_model_state_dict(model, peft.utils.load_peft_weights(str(folder), device="cpu"))
    for layer in lora_layers(model).values():
        weight = layer.get_base_layer().weight
        weight.data = (weight.data.float() - layer.get_delta_weight("default").detach()).to(weight.dtype)


def subtract_start(folder: Path, start: Path) -> None:
    """Turn a saved adapter of W - B0 A0 into one of W, at twice the rank: W - B0 A0 + BA = W + [B, -B0] [A; A0].

    Args:
        folder: Adapter to rewrite.
        start: Adapter that `start_from` began with.
    """
    from safetensors.torch import load_file, save_file

    before, after = (load_file(place / "adapter_model.safetensors") for place in (start, folder))
    for name, tensor in after.items():
        rows = "lora_A" in name
        after[name] = torch.cat([tensor, before[name] if rows else -before[name]], dim=0 if rows else 1)
    save_file(after, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """The model as it was before its adapter, where it has one."""
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            yield model
    else:
        yield model


def causal_lm(model: Any) -> Any:
    """The causal language model itself, without an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
