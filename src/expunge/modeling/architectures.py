"""A model's shape without its weights, from its config.json; those of packaged recipes are known here."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from expunge.config.recipe import Model
from expunge.errors import DataError
from expunge.modeling.load import build_scratch

_FILE = Path(__file__).with_name("architectures.json")


def known_models() -> dict[str, dict[str, Any]]:
    """Hub id -> the architecture's settings, for the hub ids that packaged recipes name."""
    data = _read()
    return {name: data["configs"][config] for name, config in data["models"].items()}


def model_config(name: str, model: Model, *, online: bool = True) -> Any:
    """The transformers config of a model: known here, in its folder, in the local cache or on the hub.

    Args:
        name: Folder or hub id.
        model: The recipe's model section, for revision and trust_remote_code.
        online: Whether the hub may be asked.

    Raises:
        DataError: There is no config, or it cannot be read.
    """
    if name in known_models() and not Path(name).exists():
        return transformers.AutoConfig.for_model(**known_models()[name])
    try:
        return transformers.AutoConfig.from_pretrained(
            name,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            local_files_only=not online,
        )
    except (OSError, ValueError, KeyError) as error:
        first = " ".join(str(error).split())[:300]
        raise DataError(
            f"the config of {name} cannot be read: {first}", fix="Check the folder or the hub id."
        ) from error


def meta_model(model: Model, *, online: bool = True) -> Any:
    """The model without weights, on the meta device: names and shapes of everything, no memory.

    Raises:
        DataError: Its config cannot be found or read, or names an architecture that transformers lacks.
    """
    with torch.device("meta"):
        if model.scratch is not None:
            return build_scratch(model.scratch, _Vocabulary(model.scratch.vocab_size), seed=0)
        assert model.name is not None
        config = model_config(model.name, model, online=online)
        try:
            return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
        except (ValueError, KeyError) as error:
            first = " ".join(str(error).split())[:300]
            raise DataError(f"{model.name} is not a causal language model that can be built: {first}") from error


class _Vocabulary:
    """As much of a tokenizer as a model's shape depends on."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@functools.cache
def _read() -> Any:
    return json.loads(_FILE.read_text(encoding="utf-8"))
