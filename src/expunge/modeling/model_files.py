"""Check the files of a model folder before a model is built from them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from expunge.errors import DataError
from expunge.modeling.saved_adapters import tensor_shapes
from expunge.reading import read_json

CONFIG_ERRORS = (OSError, ValueError, ImportError, LookupError, TypeError, AttributeError, StrictDataclassError)
"""Exceptions that transformers raises for a config that it cannot read or that makes no sense."""


def check_config(folder: Path) -> None:
    """Raise if a weight file is damaged, or if the config asks for more layers than the weights can fill.

    A model is built before its weights are read, which would take any time with a billion layers.

    Raises:
        DataError: The message names the file.
    """
    num_tensors = sum(len(tensor_shapes(file)) for file in sorted(folder.glob("*.safetensors")))
    settings = read_json(folder / "config.json")
    if not isinstance(settings, dict):
        raise DataError(f"{folder / 'config.json'} is not the config of a model.", fix="Copy or download it again.")
    text_settings = settings.get("text_config")
    for section in (settings, text_settings if isinstance(text_settings, dict) else {}):
        for name in ("num_hidden_layers", "n_layer", "num_layers"):
            value = section.get(name)
            if isinstance(value, int) and not 0 <= value <= (num_tensors or value):
                raise DataError(
                    f"{folder / 'config.json'}: {name} is {str(value)[:40]}, with {num_tensors} weight tensors.",
                    fix="The folder mixes files of two models, or is damaged; copy or download it again.",
                )
