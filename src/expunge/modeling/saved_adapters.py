"""Adapter checkpoints of peft: find them and their base models, and read and join low-rank updates.

An adapter checkpoint is a folder or a hub repository with `adapter_config.json`. It names its base model, whose
weights it does not contain.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.errors import DataError, IncompatibleError, one_line
from expunge.reading import read_json

SUPPORTED = {"LORA": "LoRA", "IA3": "IA3", "LOHA": "LoHa", "LOKR": "LoKr"}
"""peft's name of a type -> its usual name. All of them act inside single layers and can be merged."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of the model's parameter names in peft's files."""
_UNSUPPORTED = {
    "alora_invocation_tokens": "is active after certain tokens only (aLoRA)",
    "layer_replication": "repeats layers of its base model (layer_replication)",
}
"""Settings of LoRA that do not act in a single layer."""
_LOW_RANK = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("eva_config", "runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
}
"""Settings of LoRA that do not prevent it from being a sum W + BA in linear layers alone."""
_LOW_RANK_VALUES = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal", "eva")}
"""Further such settings, with the values that are allowed. Other initialisations subtract BA from the weights."""


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter checkpoint."""

    name: str
    """Folder or hub id."""
    revision: str | None
    """Revision on the hub."""
    settings: Mapping[str, Any]
    """Content of `adapter_config.json`."""
    base: str
    """Absolute path or hub id of the base model."""
    base_revision: str | None

    @property
    def summary(self) -> str:
        """Type, rank and base model, for messages."""
        rank = f" of rank {self.settings['r']}" if self.settings.get("r") else ""
        return f"{SUPPORTED[self.settings['peft_type']]} adapter{rank} on {self.base}"

    def weights(self, online: bool = True) -> Path | None:
        """Return the file of the adapter's weights, downloaded if necessary; None if it is not available."""
        return _file_of(self.name, ADAPTER_WEIGHTS, self.revision, online)

    def has_file(self, name: str) -> bool:
        """Return whether the checkpoint has a file of this name beside the adapter."""
        return _file_of(self.name, name, self.revision, True) is not None


def find_adapter(name: str, revision: str | None = None, *, online: bool = True) -> SavedAdapter | None:
    """Return the adapter checkpoint of a folder or hub id; None if it is a full model, or does not exist.

    Args:
        name: Folder or hub id.
        revision: Revision on the hub.
        online: Whether to query the hub; otherwise its local cache is searched.

    Raises:
        DataError: The folder has several adapters, pickled weights, or an adapter whose base model is not named or does
            not exist.
        IncompatibleError: The adapter is of a type that is not supported.
    """
    folder = Path(name) if Path(name).is_dir() else None
    if folder is not None:
        _refuse_several(folder)
    elif name.startswith((".", "/", "~")):
        return None
    file = _file_of(name, ADAPTER_CONFIG, revision, online)
    if file is None:
        return None
    try:
        settings = read_json(file)
        peft_type = str(settings["peft_type"])
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{file} is not the config of an adapter: {one_line(error)}.", fix="Copy or download the adapter again."
        ) from error
    _check_type(name, peft_type, settings)
    if folder is not None and not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise DataError(
            f"the adapter {name} has {'pickled weights (.bin)' if pickled else 'no weights'}, not {ADAPTER_WEIGHTS}.",
            fix="Save it again with a recent peft; pickles can run code and are refused."
            if pickled
            else "Copy or download the folder again.",
        )
    base = _base_of(name, settings.get("base_model_name_or_path"), folder)
    base_revision = None if Path(base).is_dir() else settings.get("revision")
    saved = SavedAdapter(name, None if folder else revision, settings, base, base_revision)
    if folder is None or not is_same_folder(base, folder):
        _refuse_adapter_base(saved, online)
    return saved


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors in a safetensors file.

    Raises:
        DataError: It is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is damaged or not safetensors ({error}).", fix="Copy or download it again.") from error


def low_rank_matrices(saved: SavedAdapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the update BA of each adapted layer, by the layer's name in the base model.

    Returns:
        A (r, in) and B (out, r) in float32 on the CPU, with the adapter's scaling included in B.

    Raises:
        IncompatibleError: The adapter is more than a sum of low-rank updates of linear layers.
    """
    reason = _not_low_rank(saved)
    if reason:
        raise IncompatibleError(
            f"the adapter {saved.name} cannot be stacked: {reason}.", fix="Set model.adapter=merged."
        )
    file = saved.weights()
    assert file is not None
    return _read_matrices(file, saved.settings)


def is_low_rank(saved: SavedAdapter) -> bool:
    """Return whether an adapter consists of low-rank updates of linear layers, so that another one can be added."""
    return not _not_low_rank(saved)


def _not_low_rank(saved: SavedAdapter) -> str:
    """Return why an adapter is more than low-rank updates of linear layers; empty if it is not."""
    settings = saved.settings
    if settings["peft_type"] != "LORA":
        return f"it is of type {SUPPORTED[settings['peft_type']]}"
    changes = [
        name
        for name, value in settings.items()
        if value and name not in _LOW_RANK and value not in _LOW_RANK_VALUES.get(name, ())
    ]
    if changes:
        return f"it uses {changes[0]}"
    file = saved.weights()
    if file is None:
        return f"it has no {ADAPTER_WEIGHTS}"
    shapes = tensor_shapes(file)
    more = [name for name in shapes if not re.search(r"\.lora_[AB]\.weight$", name) or len(shapes[name]) != 2]
    return f"it contains {more[0]}" if more else ""


def _read_matrices(file: Path, settings: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and the scaled B by layer."""
    from peft.utils.other import get_pattern_key
    from safetensors.torch import load_file

    tensors = {name.removeprefix(PREFIX): tensor.float() for name, tensor in load_file(file).items()}
    patterns = settings.get("alpha_pattern") or {}
    matrices = {}
    for name in sorted({re.sub(r"\.lora_[AB]\.weight$", "", name) for name in tensors}):
        a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        alpha = patterns.get(get_pattern_key(patterns.keys(), name), settings["lora_alpha"])
        matrices[name] = a, b * (alpha / (len(a) ** 0.5 if settings.get("use_rslora") else len(a)))
    return matrices


def join_adapters(folder: Path, saved: SavedAdapter) -> None:
    """Rewrite a saved adapter of a model that contains another adapter as one adapter of the common base model.

    W + B0 A0 + BA = W + [B0, B] [A0; A], whose rank is the sum of both. In layers that only one of them adapts, the
    matrices are padded with zeros.

    Args:
        folder: The saved adapter to rewrite.
        saved: The adapter that the model contains, merged or stacked.
    """
    from safetensors.torch import save_file

    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    both = low_rank_matrices(saved), _read_matrices(folder / ADAPTER_WEIGHTS, config)
    ranks = [max(len(a) for a, _ in matrices.values()) for matrices in both]
    tensors = {}
    for name in sorted({*both[0], *both[1]}):
        width, height = next((a.shape[1], len(b)) for a, b in (m[name] for m in both if name in m))
        a, b = torch.zeros(sum(ranks), width), torch.zeros(height, sum(ranks))
        for start, matrices in zip((0, ranks[0]), both, strict=True):
            if name in matrices:
                end = start + len(matrices[name][0])
                a[start:end], b[:, start:end] = matrices[name]
        tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"] = a, b
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    # The scaling alpha / r is 1, because B includes that of each adapter.
    config |= {"r": sum(ranks), "lora_alpha": sum(ranks), "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    config |= {"target_modules": sorted({*both[0], *both[1]})}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _check_type(name: str, peft_type: str, settings: Mapping[str, Any]) -> None:
    """Raise if an adapter is of a type that is not supported.

    Raises:
        IncompatibleError: It does not act in single layers, or is not for causal language models.
    """
    supported = f"Supported: {', '.join(SUPPORTED.values())} (LoRA with DoRA and rsLoRA), for causal language models."
    task = settings.get("task_type")
    problem = ""
    if peft_type not in SUPPORTED:
        problem = f"is of type {peft_type}"
    elif task not in {None, "CAUSAL_LM"}:
        problem = f"is for the task {task}"
    else:
        problem = next((words for key, words in _UNSUPPORTED.items() if settings.get(key)), "")
    if problem:
        raise IncompatibleError(
            f"the adapter {name} {problem}, which expunge cannot use.",
            allowed=supported,
            fix="Merge it into its base model with the software that it was trained with, if that is possible, and "
            "give the folder of the full model.",
        )


def _refuse_several(folder: Path) -> None:
    """Raise if it is unclear which of several adapters in a folder is meant.

    Raises:
        DataError: The folder has adapters in subfolders, as peft saves a model with several.
    """
    inner = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
    # States of transformers' Trainer are older versions of the same adapter.
    inner = [name for name in inner if not re.fullmatch(r"checkpoint-\d+", name)]
    if (folder / ADAPTER_CONFIG).is_file():
        names = [str(folder), *(f"{folder}/{name}" for name in inner)]
        fix = "Copy the one to use into a folder of its own, or merge them with peft and give the full model."
    else:
        names = [] if (folder / "config.json").is_file() else [f"{folder}/{name}" for name in inner]
        fix = f"Give the one to use, such as {names[0]}." if names else ""
    if len(names) > 1 or (names and not (folder / ADAPTER_CONFIG).is_file()):
        raise DataError(
            f"the folder {folder} has {len(names)} adapter{'s' if len(names) > 1 else ' in a subfolder'}: "
            f"{', '.join(names)}.",
            fix=fix,
        )


def _base_of(name: str, base: object, folder: Path | None) -> str:
    """Return the absolute path or hub id of an adapter's base model.

    Paths are relative to the current folder, as in peft, or to the adapter's folder. A model in `shared` of the folder
    of all runs is found even if that folder was moved.

    Raises:
        DataError: It is not named, does not exist, or the name matches two folders.
    """
    edit = "Write its folder or hub id into base_model_name_or_path of adapter_config.json."
    if not isinstance(base, str) or not base:
        raise DataError(f"the adapter {name} does not name its base model.", fix=edit)
    candidates = [Path(base).expanduser()]
    if folder is not None:
        candidates.append(folder / base)
    existing = {path.resolve() for path in candidates if path.is_dir()}
    if not existing and folder is not None and "shared" in Path(base).parts:
        parts = Path(base).parts
        moved = folder.resolve().parents[1] / Path(*parts[parts.index("shared") :])
        existing = {moved} if moved.is_dir() else set()
    if len(existing) > 1:
        raise DataError(
            f"the adapter {name} names the base model '{base}', which is {' as well as '.join(map(str, existing))}.",
            fix="Write the absolute path into base_model_name_or_path of adapter_config.json.",
        )
    if existing:
        return str(existing.pop())
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise DataError(
            f"the base model {base} of the adapter {name} does not exist.",
            fix=f"Copy or download it there. {edit}",
        )
    return base


def _refuse_adapter_base(saved: SavedAdapter, online: bool) -> None:
    """Raise if an adapter was trained on another adapter.

    Raises:
        IncompatibleError: Its base model is an adapter checkpoint.
    """
    if _file_of(saved.base, ADAPTER_CONFIG, saved.base_revision, online) is not None:
        raise IncompatibleError(
            f"the base model {saved.base} of the adapter {saved.name} is an adapter checkpoint itself.",
            fix="Merge that one into its base model with peft, save the full model, and write its folder into "
            "base_model_name_or_path of adapter_config.json.",
        )


def is_same_folder(base: str, folder: Path) -> bool:
    """Return whether a base model is in a given folder."""
    return Path(base).is_dir() and Path(base).samefile(folder)


def _file_of(name: str, file: str, revision: str | None, online: bool) -> Path | None:
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    return _hub_file(name, file, revision, online)


@functools.lru_cache(maxsize=64)
def _hub_file(name: str, file: str, revision: str | None, online: bool) -> Path | None:
    """Return a file of a hub repository, from the local cache or downloaded; None if it is not available."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(
            name,
            file,
            revision=revision,
            local_files_only=not online,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        # There is no such repository, or the name cannot be one; loading the model reports it.
        return None
    return None if path is None else Path(path)
