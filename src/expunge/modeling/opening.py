"""Open a model for measuring: weights on their device, checked against the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from expunge.config.recipe import Model, Prompt
from expunge.data.chat import describe_difference
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.modeling.fsdp import load_on_device
from expunge.modeling.load import check_tokenizer, context_length, device_of, load_model, load_tokenizer


def open_model(
    config: Model,
    name: str,
    tokenizer: Any,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    change: Callable[[Any], Any] | None = None,
) -> Any:
    """Load a model onto its device, sharded under FSDP.

    Args:
        config: Precision, attention and device.
        name: Folder or hub id.
        tokenizer: The tokenizer that the model must fit.
        revision: Revision on the hub.
        dtype: Precision of the weights; None for the configured one.
        change: Applied to the model before it is sharded, such as adding an adapter.

    Raises:
        DataError: The model cannot be loaded.
        IncompatibleError: Its vocabulary is smaller than the tokenizer's.
    """

    def load(device: torch.device) -> Any:
        weights = dtype or getattr(torch, config.dtype)
        model = load_model(name, config=config, revision=revision, dtype=weights, device=device)
        check_tokenizer(model, tokenizer, name)
        return model if change is None else change(model)

    return load_on_device(load, device_of(config))


def measuring_template(tokenizer: Any, prompt: Prompt | None, model: Any | None = None) -> Template:
    """Return the template for measuring a model outside a run: up to its context length, never cut.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Prompt settings; None for the tokenizer's chat template, or plain text where it has none.
        model: The model, for its context length; without one the length is unlimited.
    """
    prompt = prompt or Prompt(style="chat" if tokenizer.chat_template else "plain")
    return Template(tokenizer, prompt, max_length=1 << 30 if model is None else context_length(model.config))


def check_same_tokens(name: str, role: str, config: Model, template: Template, revision: str | None = None) -> None:
    """Raise if a model's own tokenizer gives other tokens than the template of the model it is compared with.

    Args:
        name: Folder or hub id of the model.
        role: Name of its role in messages, such as 'retain model'.
        config: Whether remote code is trusted.
        template: Template of the measured model.
        revision: Revision on the hub.

    Raises:
        IncompatibleError: Tokenizer or prompt differ.
    """
    tokenizer = load_tokenizer(name, revision, config.trust_remote_code)
    other = Template(tokenizer, template.prompt, template.max_length)
    if other.fingerprint != template.fingerprint:
        is_same_text = other.example == template.example
        raise IncompatibleError(
            f"the {role} {name} and the measured model have different {'tokenizers' if is_same_text else 'prompts'}, "
            "so they do not compare.",
            allowed="" if is_same_text else f"{describe_difference(template.example, other.example)}",
            fix="Give a model that was fine-tuned from the same base model, with the same prompt.",
        )
