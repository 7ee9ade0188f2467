"""Low-rank adapters (LoRA) through peft.

The weights of the model under the adapter stay frozen, so with its adapter disabled the model is its own reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.config.recipe import Lora
from expunge.errors import IncompatibleError, one_line
from expunge.modeling.forward import MODEL_ERRORS, trial_ids
from expunge.modeling.types import Adapted, CausalLM, ModuleLike, TrainedModel

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def is_adapted(model: TrainedModel) -> TypeIs[Adapted]:
    """Return whether a model is wrapped by peft."""
    return hasattr(model, "disable_adapter")


def causal_lm(model: TrainedModel) -> CausalLM:
    """Return the causal language model itself, without a wrapper around it."""
    return model.get_base_model() if is_adapted(model) else model


def add_lora(model: CausalLM, config: Lora, seed: int, revision: str | None = None) -> Adapted:
    """Wrap a model with a freshly initialised adapter, which does not change its output yet.

    Args:
        model: The model.
        config: Settings of the adapter.
        seed: Seed of its initial values.
        revision: Revision of the model on the hub, which the saved adapter records.

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
        revision=revision,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted: Adapted = peft.get_peft_model(model, settings)
        except ValueError as error:
            if "not found" not in str(error):
                raise IncompatibleError(
                    f"this model cannot have an adapter on model.lora.targets {config.targets}: {one_line(error)}",
                    fix="Name other modules in model.lora.targets.",
                ) from error
            linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
            raise IncompatibleError(
                f"model.lora.targets {config.targets} match no module of this model.",
                allowed=f"Its linear modules are {', '.join(linear)}.",
            ) from error
    # The adapter is trained in float32, also where the frozen weights are in half precision.
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    _check_runs(model)
    return adapted


def prepare_training(
    model: CausalLM,
    lora: Lora | None,
    seed: int,
    trainable: Callable[[CausalLM], Collection[str] | None],
    revision: str | None = None,
) -> TrainedModel:
    """Add an adapter if there are settings for one, and freeze everything that a method does not train.

    Args:
        model: The model, which may be on the meta device.
        lora: Settings of the adapter; None to train the weights.
        seed: Seed of the adapter's initial values.
        trainable: Returns the names of the parameters to train; None for all.
        revision: Revision of the model on the hub.

    Raises:
        IncompatibleError: No parameter is left to train, or the method selects one that does not exist.
    """
    prepared = model if lora is None else add_lora(model, lora, seed, revision)
    names = trainable(causal_lm(prepared))
    if names is not None:
        chosen = trained_names(causal_lm(prepared), names)
        # Without requires_grad nothing is computed, clipped or stored for the other parameters.
        for name, parameter in causal_lm(prepared).named_parameters():
            parameter.requires_grad_(name in chosen)
    if not any(parameter.requires_grad for parameter in prepared.parameters()):
        raise IncompatibleError("nothing would be trained: all parameters of the model are frozen.")
    return prepared


def trained_names(model: CausalLM, names: Collection[str]) -> set[str]:
    """Return the parameters that a method trains, each by its first name: tied ones have several.

    Args:
        model: The model, which may be on the meta device.
        names: What the method's `trainable` returns.

    Raises:
        IncompatibleError: There are no names, or one is not that of a parameter.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    unknown = sorted(set(names) - parameters.keys())
    if unknown or not names:
        selected = ", ".join(unknown[:3]) or "no parameters"
        raise IncompatibleError(
            ("" if set(names) & parameters.keys() else "nothing would be trained: ")
            + f"the method selects {selected}, and the model has no parameter of such a name.",
            allowed=f"Its parameters are {', '.join(list(parameters)[:3])} and so on.",
            fix="Change the method's `trainable`, or the settings that it reads.",
        )
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {first[id(parameters[name])] for name in names}


def _check_runs(model: CausalLM) -> None:
    """Raise if a model with an adapter does not run, or not with gradient.

    Raises:
        IncompatibleError: peft replaced a module that is more than a linear layer, or no gradient reaches the adapter.
    """
    if model.device.type == "meta":
        return
    training = model.training
    model.train()
    try:
        logits = model(input_ids=trial_ids(model, 5)[None], use_cache=False).logits
        problem = "" if logits.requires_grad else "no gradient reaches it"
    except MODEL_ERRORS as error:
        problem = one_line(error)
    finally:
        model.train(training)
    if problem:
        raise IncompatibleError(
            f"{type(model).__name__} cannot be trained with this adapter: {problem}.",
            fix="Name the modules to adapt in model.lora.targets, such as [q_proj, v_proj].",
        )


def lora_layers(model: ModuleLike) -> dict[str, Any]:
    """Return the layers that have an adapter (`peft.tuners.lora.LoraLayer`), by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def set_adapter_weights(model: Adapted, matrices: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write low-rank matrices into a fresh adapter, which then adds BA to each weight.

    If A and B have a lower rank than the adapter, its remaining directions keep their LoRA initialisation.

    Args:
        model: A model with an adapter.
        matrices: Per adapted layer, A (r, in) and B (out, r).
    """
    layers = lora_layers(model)
    for name, (a, b) in matrices.items():
        # The layer adds scaling * BA, so each factor is divided by the square root.
        layer, root = layers[name], layers[name].scaling["default"] ** 0.5
        layer.lora_A["default"].weight.data[: len(a)] = a / root
        layer.lora_B["default"].weight.data[:, : len(a)] = b / root


def load_initial_adapter(model: Adapted, folder: Path) -> None:
    """Load a saved adapter as the start of training, and subtract what it adds from the frozen weights.

    The weights become W - BA, so the output stays the same up to rounding in the precision of the weights.
    """
    import peft

    peft.set_peft_model_state_dict(model, peft.utils.load_peft_weights(str(folder), device="cpu"))
    for layer in lora_layers(model).values():
        weight = layer.get_base_layer().weight
        weight.data = (weight.data.float() - layer.get_delta_weight("default").detach()).to(weight.dtype)


def subtract_initial_adapter(folder: Path, initial: Path) -> None:
    """Rewrite a saved adapter of W - B0 A0 as an adapter of W, at twice the rank.

    W - B0 A0 + BA = W + [B, -B0] [A; A0].

    Args:
        folder: The saved adapter to rewrite.
        initial: The adapter that was passed to `load_initial_adapter`.
    """
    from safetensors.torch import load_file, save_file

    before, after = (load_file(path / "adapter_model.safetensors") for path in (initial, folder))
    for name, tensor in after.items():
        is_a = "lora_A" in name
        after[name] = torch.cat([tensor, before[name] if is_a else -before[name]], dim=0 if is_a else 1)
    save_file(after, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    # peft scales BA by lora_alpha / r, which must not change.
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
