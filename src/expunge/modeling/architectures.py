"""Models without weights, built from config.json alone; the configs of packaged recipes are bundled."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from expunge.config.recipe import Model
from expunge.errors import DataError, IncompatibleError, one_line
from expunge.modeling.gguf import as_folder
from expunge.modeling.load import build_scratch, check_model_folder, refuse_quantized
from expunge.modeling.model_files import CONFIG_ERRORS, check_config
from expunge.modeling.saved_adapters import SavedAdapter, find_adapter, low_rank_matrices
from expunge.modeling.types import CausalLM

_FILE = Path(__file__).with_name("architectures.json")


@functools.cache
def bundled_configs() -> dict[str, dict[str, Any]]:
    """Return hub id -> config for the models of packaged recipes."""
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    return {name: data["configs"][config] for name, config in data["models"].items()}


def adapter_of(model: Model, *, online: bool = True) -> SavedAdapter | None:
    """Return the adapter checkpoint that a recipe starts from; None if it starts from a full model.

    Args:
        model: The recipe's model section.
        online: Whether to query the hub.

    Raises:
        DataError: It cannot be read, or its base model does not exist.
        IncompatibleError: It is of a type that is not supported, or cannot be opened as `model.adapter` states.
    """
    if model.name is None or (model.name in bundled_configs() and not Path(model.name).exists()):
        return None
    check_model_folder(model.name)
    saved = find_adapter(as_folder(model.name), model.revision, online=online)
    if saved is not None and model.adapter == "stacked" and saved.weights(online) is not None:
        low_rank_matrices(saved)
    return saved


def model_config(model: Model, *, online: bool = True) -> Any:
    """Return the transformers config of a model: bundled, or from its folder, the local cache or the hub.

    The config of an adapter is that of its base model.

    Args:
        model: The recipe's model section.
        online: Whether to query the hub.

    Raises:
        DataError: There is no config, or it cannot be read.
        IncompatibleError: `model.adapter` has no effect, or the model is an adapter that cannot be used.
    """
    assert model.name is not None
    saved = adapter_of(model, online=online)
    name, revision = (as_folder(model.name), model.revision) if saved is None else (saved.base, saved.base_revision)
    if name in bundled_configs() and not Path(name).exists():
        config = transformers.AutoConfig.for_model(**bundled_configs()[name])
    else:
        if Path(name).is_dir() and (Path(name) / "config.json").is_file():
            check_config(Path(name))
        try:
            config = transformers.AutoConfig.from_pretrained(
                name,
                revision=revision,
                trust_remote_code=model.trust_remote_code,
                local_files_only=not online,
            )
        except CONFIG_ERRORS as error:
            raise DataError(
                f"the config of {name} cannot be read: {one_line(error)}", fix="Check the folder or the hub id."
            ) from error
    # The setting is judged once the model is known to exist.
    if saved is None and model.adapter is not None:
        raise IncompatibleError(
            f"model.adapter has no effect: {model.name} is a full model, not an adapter.", fix="Leave it out."
        )
    return config


def meta_model(model: Model, *, online: bool = True, trained: bool = True) -> CausalLM:
    """Build a model on the meta device: its tensors have names and shapes, but no memory.

    An adapter is left out: merged or stacked it does not change the names and shapes of the parameters.

    Args:
        model: The recipe's model section.
        online: Whether to query the hub for the config.
        trained: Whether the model will be trained or edited, and not only measured.

    Raises:
        DataError: Its config is missing, unreadable, or of an architecture that transformers does not support.
        IncompatibleError: Its weights are quantised, or it is an adapter that cannot be used.
    """
    with torch.device("meta"):
        if model.scratch is not None:
            return build_scratch(model.scratch, _VocabularySize(model.scratch.vocab_size), seed=0)
        config = model_config(model, online=online)
        if trained:
            refuse_quantized(str(model.name), config)
        try:
            built: CausalLM = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=model.trust_remote_code
            )
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{model.name} is not a causal language model that transformers can build: {one_line(error)}"
            ) from error
    return built


class _VocabularySize:
    """A `Vocabulary` of a given size, in place of a tokenizer."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size
