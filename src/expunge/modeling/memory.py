"""How much memory a training will take, from the model's shape alone.

Nothing here is measured. Each part is a product of counts that its docstring gives, so that a reader can see
which setting would shrink it.
"""

from __future__ import annotations

from typing import Any

from expunge.config.recipe import Recipe, Train
from expunge.modeling.adapters import add_lora
from expunge.modeling.logprobs import CHUNK_ELEMENTS
from expunge.records import Record

_STATE_BYTES = {"sgd": 0, "adafactor": 0, "lion": 4, "adagrad": 4, "rmsprop": 4}
"""Bytes per trained parameter that an optimiser keeps; Adam's two float32 moments are 8."""


class MemoryEstimate(Record):
    """Bytes of one training process, part by part."""

    num_parameters: int
    num_trainable: int
    parts: dict[str, int]
    """Part -> bytes: weights, gradients, optimizer, reference, autocast, activations, logits."""
    total_bytes: int
    how: str
    """What the numbers rest on."""


def memory_estimate(recipe: Recipe, model: Any, train: Train, *, num_sets: int, length: int) -> MemoryEstimate:
    """Memory of a training at its widest moment: the backward pass of a micro-batch of longest rows.

    With P parameters of which T are trained:

    - weights: 4 P bytes; with LoRA P in the recipe's precision, and the adapters 4 T.
    - gradients: 4 T. optimizer: 8 T for Adam (8-bit optimisers: 2 T).
    - reference: 4 P where the method needs the start model's logits and there is no adapter to switch off.
    - autocast: 2 P, the half-precision copies that a forward pass makes of float32 weights.
    - activations: see `activation_bytes`; logits: see `logits_bytes`.

    Args:
        recipe: The recipe.
        model: The model on the meta device.
        train: The training: `recipe.train`, `recipe.target` or `recipe.reference`.
        num_sets: Sets that go through the model together (forget and retain: 2).
        length: Tokens of a row.
    """
    unlearning = train is recipe.train
    half = recipe.model.dtype != "float32"
    lora = recipe.model.lora if unlearning else None
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if lora is None:
        chosen = recipe.method.trainable(model) if unlearning else None
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        num_trainable = sum(sizes[name] for name in (sizes if chosen is None else chosen))
        weights = 4 * num_parameters
    else:
        adapted = add_lora(model, lora, recipe.seed)
        num_trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        weights = (2 if half else 4) * num_parameters + 4 * num_trainable
        model = adapted.unload()
    rows = min(train.device_batch_size, train.batch_size) * num_sets
    frozen_copy = unlearning and lora is None and recipe.method.needs().reference
    parts = {
        "weights": weights,
        "gradients": 4 * num_trainable,
        "optimizer": _state_bytes(train.optimizer) * num_trainable,
        "reference": 4 * num_parameters if frozen_copy else 0,
        "autocast": 2 * num_parameters if half and lora is None else 0,
        "activations": activation_bytes(
            model.config,
            num_tokens=rows * length,
            length=length,
            half=half,
            checkpointing=recipe.model.gradient_checkpointing,
            eager=recipe.model.attention == "eager",
        ),
        "logits": logits_bytes(model.config, rows * length),
    }
    return MemoryEstimate(
        num_parameters=num_parameters,
        num_trainable=num_trainable,
        parts=parts,
        total_bytes=sum(parts.values()),
        how=f"estimated from the model's shape for {rows} rows of {length} tokens at a time; not measured",
    )


def activation_bytes(
    config: Any, *, num_tokens: int, length: int, half: bool, checkpointing: bool = False, eager: bool = False
) -> int:
    """Bytes that the forward pass keeps for the backward pass.

    Per token and layer, with hidden size h, width of all query heads q, intermediate size i:

    - float32: 4 (6 h + 5 q + 4 i): two norms keep input, normalised and output (6 h); attention keeps
      queries, keys and values repeated to all heads, and its output in two layouts (5 q); the gated MLP keeps
      gate, its activation, up and their product (4 i).
    - half precision under autocast: 26 h + 10 q + 8 i: norms stay in float32 (16 h), and each of five linear
      layers keeps a half-precision copy of its input (10 h).
    - eager attention adds the score matrix before and after softmax: 2 x heads x length values.

    With gradient checkpointing each layer keeps its input only (4 h), and one layer at a time all of it.
    """
    config = config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    queries = heads * (getattr(config, "head_dim", None) or hidden // heads)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    single, mixed = 4 * (6 * hidden + 5 * queries + 4 * inner), 26 * hidden + 10 * queries + 8 * inner
    per_token = mixed if half else single
    if eager:
        per_token += 2 * heads * length * (2 if half else 4)
    if checkpointing:
        return int(num_tokens * (layers * 4 * hidden + per_token))
    return int(num_tokens * layers * per_token)


def logits_bytes(config: Any, num_tokens: int) -> int:
    """Float32 logits of one chunk of answer positions, with log-softmax and gradient: 12 bytes each."""
    elements = num_tokens * int(config.get_text_config().vocab_size)
    return 12 * min(elements, CHUNK_ELEMENTS)


def format_bytes(number: float) -> str:
    """Bytes as a person reads them.

    Example:
        >>> format_bytes(1536), format_bytes(25_900_000_000)
        ('1.5 KiB', '24.1 GiB')
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _state_bytes(optimizer: str) -> int:
    if "8bit" in optimizer or "4bit" in optimizer:
        return 2
    return next((size for name, size in _STATE_BYTES.items() if name in optimizer), 8)
