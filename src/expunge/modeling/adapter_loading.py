"""Put adapter checkpoints on their base models: beside the weights, merged into them, or below a new adapter."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.console import note
from expunge.errors import DataError, IncompatibleError, one_line
from expunge.modeling.adapters import causal_lm, lora_layers
from expunge.modeling.saved_adapters import (
    ADAPTER_WEIGHTS,
    PREFIX,
    SavedAdapter,
    is_same_folder,
    low_rank_matrices,
    tensor_shapes,
)
from expunge.modeling.types import Adapted, CausalLM, TrainedModel

AdapterUse = Literal["unmerged", "merged", "stacked"]
"""How an adapter checkpoint is opened: as peft loads it, added to the weights, or as a fixed part of the model."""

_MAX_LOSS = 0.5
"""Share of an update that rounding may destroy when an adapter is merged."""
_MERGE_ELSEWHERE = "Merge it with the software that it was trained with, and give the folder of the full model."
_OTHER_BASE = (
    "Write the model that the adapter was trained on into base_model_name_or_path of its adapter_config.json. If its "
    "vocabulary was extended for the training, save the full model with the merged adapter and give that folder."
)


def load_adapter(model: CausalLM, saved: SavedAdapter, use: AdapterUse) -> TrainedModel:
    """Put an adapter on its base model.

    Args:
        model: The base model.
        saved: The adapter.
        use: 'unmerged' returns a model wrapped by peft with a frozen adapter; 'merged' a plain model with changed
            weights; 'stacked' a plain model whose linear layers add a frozen low-rank update, so that a new adapter can
            be trained on it.

    Raises:
        DataError: The weights are missing or are those of another model.
        IncompatibleError: The adapter cannot be used in this way; the message states what to do.
    """
    adapted = _attach(model, saved)
    _check_full_weights(adapted, saved)
    if use == "unmerged":
        return adapted
    expected = _trial_logits(adapted)
    if use == "merged":
        _check_rounding(adapted, saved)
        _check_tied(adapted, saved)
        try:
            plain = adapted.merge_and_unload()
        except (RuntimeError, ValueError) as error:
            raise IncompatibleError(
                f"the adapter {saved.name} cannot be merged: {one_line(error)}", fix=_MERGE_ELSEWHERE
            ) from error
    else:
        matrices = low_rank_matrices(saved)
        plain = adapted.unload()
        _stack(plain, saved, matrices)
    _remove_traces(plain)
    difference, size = float((_trial_logits(plain) - expected).abs().max()), float(expected.abs().max())
    # Half-precision weights are rounded when an update is added to them.
    exact = next(plain.parameters()).dtype == torch.float32
    if not difference <= (1e-4 if exact else 0.25) * size:
        raise IncompatibleError(
            f"the adapter {saved.name} cannot be {use}: the logits of the result differ by {difference:.3g} (the "
            f"largest is {size:.3g}).",
            fix=_MERGE_ELSEWHERE,
        )
    return plain


def _check_tied(adapted: Adapted, saved: SavedAdapter) -> None:
    """Raise if merging an update of the output layer would change the input embeddings too, or the reverse.

    Raises:
        IncompatibleError: The model has one matrix for both, and the adapter changes one of them.
    """
    model = causal_lm(adapted)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [getattr(getattr(layer, "base_layer", layer), "weight", None) for layer in layers]
    if weights[0] is not None and weights[0] is weights[1] and any(hasattr(layer, "base_layer") for layer in layers):
        raise IncompatibleError(
            f"the adapter {saved.name} cannot be merged: it changes a matrix that is both input and output embeddings.",
            fix=_MERGE_ELSEWHERE,
        )


def _attach(model: CausalLM, saved: SavedAdapter) -> Adapted:
    """Return the base model wrapped by peft, with the frozen adapter.

    Raises:
        DataError: The adapter's weights are missing or damaged.
        IncompatibleError: Tensors of the file are missing in the model, or the reverse, or have other shapes.
    """
    import peft

    file = saved.weights()
    if file is None:
        raise DataError(f"the adapter {saved.name} has no {ADAPTER_WEIGHTS}.", fix="Save it again with a recent peft.")
    tensor_shapes(file)
    config = peft.PeftConfig.from_pretrained(str(file.parent))
    try:
        adapted = peft.PeftModelForCausalLM(model, config)
        result = adapted.load_adapter(
            str(file.parent),
            "default",
            torch_device=str(next(model.parameters()).device),
            # Names of layers that transformers has changed since the adapter was saved.
            key_mapping=getattr(model, "_checkpoint_conversion_mapping", {}),
        )
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise IncompatibleError(
            f"the adapter {saved.name} does not fit its base model {saved.base}: {one_line(error)}", fix=_OTHER_BASE
        ) from error
    lost = [*result.missing_keys, *result.unexpected_keys]
    if lost:
        raise IncompatibleError(
            f"the adapter {saved.name} does not fit its base model {saved.base}: {len(lost)} tensors, such as "
            f"{lost[0]}, are in one of them only.",
            fix=_OTHER_BASE,
        )
    return cast(Adapted, adapted.requires_grad_(False).eval())


def _check_full_weights(adapted: Adapted, saved: SavedAdapter) -> None:
    """Raise if the adapter's folder also has the weights of a model that is neither the base nor the merged model.

    Raises:
        DataError: The first adapted weight differs from both, so it is unclear which model is meant.
    """
    from safetensors import safe_open

    folder = Path(saved.name)
    if not (folder / "config.json").is_file() or is_same_folder(saved.base, folder):
        return
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name != ADAPTER_WEIGHTS]
    for name, layer in lora_layers(adapted).items():
        key = f"{name.removeprefix(PREFIX)}.weight"
        for file in files:
            with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
                if key not in opened.keys() or not hasattr(layer, "get_delta_weight"):  # noqa: SIM118
                    continue
                stored = opened.get_tensor(key).float()
            base = layer.get_base_layer().weight.detach().float().cpu()
            merged = base + layer.get_delta_weight("default").detach().float().cpu()
            if min(float((stored - weight).norm()) for weight in (base, merged)) > 0.01 * float(base.norm()):
                raise DataError(
                    f"the folder {folder} has an adapter and a full model, whose {key} is neither that of the base "
                    f"model {saved.base} nor that with the adapter merged.",
                    fix="Move the one to use into a folder of its own.",
                )
            return


def check_shapes(model: CausalLM, saved: SavedAdapter) -> int:
    """Raise if the shapes of an adapter's weights do not fit a model, which may be on the meta device.

    Returns:
        Number of tensors of the adapter.

    Raises:
        DataError: The file is damaged.
        IncompatibleError: A tensor of the file has another shape, or is not in the model.
    """
    import peft

    file = saved.weights()
    assert file is not None
    config = peft.PeftConfig.from_pretrained(str(file.parent))
    # Some initialisations decompose the weights, which meta tensors do not have.
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    try:
        adapted = peft.PeftModelForCausalLM(model, config)
    except ValueError as error:
        raise IncompatibleError(
            f"the adapter {saved.name} does not fit its base model {saved.base}: {one_line(error)}", fix=_OTHER_BASE
        ) from error
    # Full embeddings may be saved beside the adapter, but need not be.
    required, allowed = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for tensors in (peft.get_peft_model_state_dict(adapted, save_embedding_layers=full) for full in (False, True))
    )
    shapes = tensor_shapes(file)
    _remove_traces(adapted.unload())
    wrong = sorted({*required} - {*shapes} | {name for name in shapes if shapes[name] != allowed.get(name)})
    if wrong:
        raise IncompatibleError(
            f"the adapter {saved.name} does not fit its base model {saved.base}: the shape of {wrong[0]} is "
            f"{shapes.get(wrong[0], 'missing')}, but {allowed.get(wrong[0], 'missing')} in the base model.",
            fix=_OTHER_BASE,
        )
    return len(shapes)


class _LowRank:
    """A layer that adds a frozen low-rank update to its output: y + x A^T B^T."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[misc]
        a, b = cast(Tensor, self.frozen_a), cast(Tensor, self.frozen_b)  # type: ignore[attr-defined]
        return y + F.linear(F.linear(x.to(a.dtype), a), b).to(y.dtype)


class LowRankLinear(_LowRank, nn.Linear):
    """A linear layer with a frozen low-rank update."""


class LowRankConv1D(_LowRank, Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer, whose weight is transposed, with a frozen low-rank update."""


def _stack(model: CausalLM, saved: SavedAdapter, matrices: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Let linear layers add a low-rank update, as buffers: part of the weights' hash, never trained or saved."""
    for name, (a, b) in matrices.items():
        layer = model.get_submodule(name)
        classes = {nn.Linear: LowRankLinear, Conv1D: LowRankConv1D}
        if type(layer) not in classes:
            raise IncompatibleError(
                f"the adapter {saved.name} cannot be stacked: {name} is a {type(layer).__name__}, not a linear layer.",
                fix="Set model.adapter=merged.",
            )
        # A new class for the same object, because other objects, such as hooks and layer lists, refer to it.
        layer.__class__ = classes[type(layer)]
        device = next(layer.parameters()).device
        layer.register_buffer("frozen_a", a.to(device))
        layer.register_buffer("frozen_b", b.to(device))


def _check_rounding(adapted: Adapted, saved: SavedAdapter) -> None:
    """Report how much of the update is lost when half-precision weights are rounded after merging.

    Raises:
        IncompatibleError: Most of it is lost, so that the model would be close to its base model.
    """
    error = size = 0.0
    for layer in lora_layers(adapted).values():
        weight = layer.get_base_layer().weight
        if weight.dtype == torch.float32 or not hasattr(layer, "get_delta_weight"):
            continue
        update, before = layer.get_delta_weight("default").float(), weight.float()
        error += float(((before + update).to(weight.dtype).float() - before - update).square().sum())
        size += float(update.square().sum())
    lost = (error / size) ** 0.5 if size else 0.0
    name = str(next(adapted.parameters()).dtype).removeprefix("torch.")
    fix = "model.adapter=stacked (with model.lora) or model.dtype=float32"
    if lost > _MAX_LOSS:
        raise IncompatibleError(
            f"merging the adapter {saved.name} into weights in {name} would lose {lost:.0%} of its update.",
            fix=f"Set {fix}.",
        )
    if lost > 0.01:
        _note_once(
            f"Merging the adapter {saved.name} in {name} loses {lost:.0%} of its update to rounding; {fix} avoids it."
        )


_note_once = functools.lru_cache(maxsize=64)(note)
"""Prints a line unless it has been printed: a run loads its target several times."""


@torch.no_grad()
def _trial_logits(model: TrainedModel) -> Tensor:
    """Return the model's own logits of a short text of arbitrary tokens."""
    device = next(model.parameters()).device
    size = min(causal_lm(model).get_input_embeddings().weight.shape[0], 1000)
    ids = (torch.arange(16) * 7 % (size - 1) + 1)[None].to(device)
    training = model.training
    model.eval()
    logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()
    model.train(training)
    return logits


def _remove_traces(model: CausalLM) -> None:
    """Undo what peft leaves on a model that it no longer wraps: frozen weights, and marks that it was wrapped."""
    model.requires_grad_(True)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(model):
            delattr(model, name)
