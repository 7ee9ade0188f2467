"""Open models for measuring, and compare what is measured side by side: run, evaluate, audit, sweeps and score-log.

A comparison of two models is only valid if both read the same tokens. These comparisons are made, wherever a command
has two models, or a model and a stored result:

- Every opened model with its tokenizer (`open_model`): no token id is beyond the embeddings.
- The folder of a retain model, of a control of an audit, or of the model that scores fluency with the measured model
  (`check_same_tokens`): their tokenizers have the same vocabulary and write and encode the same prompt.
- A stored result with the model to measure, before anything is measured (`check_same_settings`), and any two
  measurements of a benchmark before they are compared (the same function in `Evaluator.record`): the same prompt (a
  hash of its text and tokens), tokenizer (a hash of its vocabulary), number of embeddings and model family, and for
  TOFU the same split.
- Two stored results (score-log, `check_same_settings`): the same facts.

A judge that grades answers reads text, not tokens, so it is opened with a tokenizer of its own. Facts that a file does
not record, such as the prompt of a TOFU log, are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from expunge.config.recipe import Model, Prompt
from expunge.data.chat import common_length, describe_difference
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.rundir import fingerprint

if TYPE_CHECKING:
    # Stored results are compared without torch.
    import torch

    from expunge.modeling.adapter_loading import AdapterUse

_FACTS = {
    "split": "split",
    "prompt": "prompt",
    "tokenizer": "tokenizer",
    "vocab": "number of embeddings",
    "architecture": "model family",
}
"""Settings in which two measurements must agree, and their names in messages."""


def open_model(
    config: Model,
    name: str,
    tokenizer: Any,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    adapter: AdapterUse = "unmerged",
    change: Callable[[Any], Any] | None = None,
) -> Any:
    """Load a model onto its device, sharded under FSDP.

    Args:
        config: Precision, attention and device.
        name: Folder or hub id of a model, or of an adapter.
        tokenizer: The tokenizer that the model must fit.
        revision: Revision on the hub.
        dtype: Precision of the weights; None for the configured one.
        adapter: How an adapter is put on its base model. Unmerged it gives the values that peft gives, also in half
            precision.
        change: Applied to the model before it is sharded, such as adding an adapter.

    Raises:
        DataError: The model cannot be loaded.
        IncompatibleError: Its vocabulary is smaller than the tokenizer's.
    """
    import torch

    from expunge.modeling.adapters import causal_lm
    from expunge.modeling.fsdp import load_on_device
    from expunge.modeling.load import check_tokenizer, device_of, load_model

    def load(device: torch.device) -> Any:
        weights = dtype or getattr(torch, config.dtype)
        model = load_model(name, config=config, revision=revision, dtype=weights, device=device, adapter=adapter)
        check_tokenizer(causal_lm(model), tokenizer, name)
        return model if change is None else change(model)

    return load_on_device(load, device_of(config))


def measuring_template(tokenizer: Any, prompt: Prompt | None, model: Any | None = None) -> Template:
    """Return the template for measuring a model outside a run: up to its context length, never cut.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Prompt settings; None for the tokenizer's chat template, or plain text where it has none.
        model: The model, for its context length; without one the length is unlimited.
    """
    from expunge.modeling.adapters import causal_lm
    from expunge.modeling.load import context_length

    prompt = prompt or Prompt(style="chat" if tokenizer.chat_template else "plain")
    limit = 1 << 30 if model is None else context_length(causal_lm(model).config)
    return Template(tokenizer, prompt, max_length=limit)


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
    from expunge.modeling.load import load_tokenizer

    tokenizer = load_tokenizer(name, revision, config.trust_remote_code)
    other = Template(tokenizer, template.prompt, template.max_length)
    # The fingerprint covers the tokens of one text only.
    if other.fingerprint != template.fingerprint or _vocabulary_hash(tokenizer) != _vocabulary_hash(template.tokenizer):
        is_same_text = other.example == template.example
        raise IncompatibleError(
            f"the {role} {name} and the measured model have different {'tokenizers' if is_same_text else 'prompts'}, "
            "so they do not compare.",
            allowed="" if is_same_text else f"{describe_difference(template.example, other.example)}",
            fix="Give a model that was fine-tuned from the same base model, with the same prompt.",
        )


def comparable_facts(template: Template, config: Any) -> dict[str, Any]:
    """Return what a measurement records for comparisons with others.

    Args:
        template: Template of the measured model.
        config: Its transformers config.
    """
    from expunge.modeling.forward import text_config

    return {
        "prompt": template.fingerprint,
        "prompt_text": template.example,
        "tokenizer": _vocabulary_hash(template.tokenizer),
        "architecture": config.model_type,
        "vocab": text_config(config).vocab_size,
    }


def _vocabulary_hash(tokenizer: Any) -> str:
    return fingerprint(tokenizer.get_vocab())


def check_same_settings(settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
    """Raise if a retain model was measured in another way; facts that one side lacks are not compared.

    Raises:
        IncompatibleError: Another split, prompt, tokenizer or model family.
    """
    for fact, words in _FACTS.items():
        ours, theirs = settings.get(fact), retain_settings.get(fact)
        if ours is not None and theirs is not None and ours != theirs:
            if fact == "prompt":
                ours, theirs = _prompts_in_words(settings, retain_settings)
            raise IncompatibleError(
                f"the retain model was measured with another {words}: {theirs}, here it is {ours}.",
                fix="Give the retain model of the same split, base model and prompt, or its results.",
            )


def _prompts_in_words(settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the parts of two prompts that differ, for a message; their hashes if a record has no text."""
    ours, theirs = settings.get("prompt_text"), retain_settings.get("prompt_text")
    if not ours or not theirs:
        return str(settings["prompt"]), str(retain_settings["prompt"])
    if ours == theirs:
        return repr(ours), "the same text in other tokens"
    start = max(common_length(ours, theirs) - 30, 0)
    return repr(ours[start : start + 100]), repr(theirs[start : start + 100])
