"""Models without weights, built from config.json alone; the configs of packaged recipes are bundled."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from expunge.config.recipe import Model
from expunge.errors import DataError, one_line
from expunge.modeling.load import build_scratch
from expunge.modeling.types import CausalLM

_FILE = Path(__file__).with_name("architectures.json")


@functools.cache
def bundled_configs() -> dict[str, dict[str, Any]]:
    """Return hub id -> config for the models of packaged recipes."""
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    return {name: data["configs"][config] for name, config in data["models"].items()}


def model_config(name: str, model: Model, *, online: bool = True) -> Any:
    """Return the transformers config of a model: bundled, or from its folder, the local cache or the hub.

    Args:
        name: Folder or hub id.
        model: The recipe's model section, for revision and trust_remote_code.
        online: Whether to query the hub.

    Raises:
        DataError: There is no config, or it cannot be read.
    """
    if name in bundled_configs() and not Path(name).exists():
        return transformers.AutoConfig.for_model(**bundled_configs()[name])
    try:
        return transformers.AutoConfig.from_pretrained(
            name,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            local_files_only=not online,
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the config of {name} cannot be read: {one_line(error)}", fix="Check the folder or the hub id."
        ) from error


def meta_model(model: Model, *, online: bool = True) -> CausalLM:
    """Build a model on the meta device: its tensors have names and shapes, but no memory.

    Args:
        model: The recipe's model section.
        online: Whether to query the hub for the config.

    Raises:
        DataError: Its config is missing, unreadable, or of an architecture that transformers does not support.
    """
    with torch.device("meta"):
        if model.scratch is not None:
            return build_scratch(model.scratch, _VocabularySize(model.scratch.vocab_size), seed=0)
        assert model.name is not None
        config = model_config(model.name, model, online=online)
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
