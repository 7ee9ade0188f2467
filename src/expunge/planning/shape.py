"""Counts that a training's memory and time follow from: of the model, its trained weights, and a micro-batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.config.recipe import Recipe
from expunge.data.templates import Encoded
from expunge.methods.base import Forward
from expunge.modeling.adapters import add_lora, trained_names
from expunge.modeling.forward import text_config
from expunge.modeling.hidden.trace import check_layers
from expunge.modeling.packing import choose_bins
from expunge.modeling.saved_adapters import find_adapter, tensor_shapes
from expunge.records import Record


@dataclass(frozen=True)
class Shape:
    """Counts of a model and of its trained weights."""

    hidden: int
    """Width of a hidden state, h."""
    queries: int
    """Width of all query heads together, q."""
    inner: int
    """Intermediate width of the MLP, i."""
    heads: int
    layers: int
    vocab: int
    tied: bool
    """Whether input and output embeddings are one matrix."""
    num_parameters: int
    num_trainable: int
    trained: Literal["all", "adapter", "some"]
    """All weights (or most of those in the layers that are run), a LoRA adapter, or a few modules."""
    rank: int
    """Rank of the adapter; 0 without one."""
    first: int
    """Lowest layer with a trained weight; nothing below it is saved for the backward pass."""
    last: int
    """Highest layer that is run."""
    num_copied: int
    """Trained weights with a frozen copy, for comparing hidden states (`Forward.compared`)."""
    num_stacked: int = 0
    """Frozen weights of an adapter beside those of its base model (`model.adapter: stacked`)."""

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.vocab * self.hidden

    @property
    def per_layer(self) -> int:
        """Weights of one decoder layer."""
        return (self.num_parameters - self.head * (1 if self.tied else 2)) // self.layers


class MicroBatch(Record):
    """Rows that a device runs at a time."""

    rows: int
    positions: int
    """Tokens that the model is run on, including empty positions of packed rows."""
    width: int
    """Columns of the (packed) rows: the attention mask has positions x width values."""
    answers: list[int]
    """Answer tokens of each set."""


def shape_of(recipe: Recipe, model: Any, section: str = "train") -> Shape:
    """Count a model on the meta device, and what one of its trainings trains; the model is unchanged.

    Args:
        recipe: The recipe.
        model: The model without weights.
        section: Name of the training: 'train', 'target', 'retain_model' or 'method.NAME'. Target and retain model train
            all weights, even if the recipe has an adapter.
    """
    config = text_config(model.config)
    hidden, layers = _setting(config, "hidden_size"), _setting(config, "num_hidden_layers")
    # Recurrent models have no attention; their states are about as wide as attention with heads of 64.
    heads = _setting(config, "num_attention_heads") or max(1, hidden // 64)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # Weights outside of layers have no layer number.
    numbers = {name: next((int(part) for part in name.split(".") if part.isdigit()), -1) for name in sizes}
    unlearning = section == "train"
    lora = None if section in {"target", "retain_model"} else recipe.model.lora
    names = recipe.method.trainable(model) if unlearning and lora is None else None
    chosen = None if names is None else trained_names(model, names)
    forward = recipe.method.needs().forward if unlearning else Forward()
    first, last = 0, layers - 1
    if forward.last_layer is not None:
        check_layers(model, "needs().forward.last_layer", [forward.last_layer])
        last = forward.last_layer
    num_trainable = sum(sizes[name] for name in (sizes if chosen is None else chosen))
    kind: Literal["all", "adapter", "some"] = "all"
    if chosen is not None:
        # Embeddings are below layer 0; assume the same of other weights outside of layers.
        first = max(0, min((numbers[name] for name in chosen), default=0))
        in_reach = sum(size for name, size in sizes.items() if first <= numbers[name] <= last)
        kind = "some" if 2 * num_trainable < in_reach else "all"
    if lora is not None:
        adapted = add_lora(model, lora, recipe.seed)
        num_trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        adapted.unload()
        kind = "adapter"
    return Shape(
        hidden=hidden,
        queries=heads * (_setting(config, "head_dim") or hidden // heads),
        inner=_setting(config, "intermediate_size") or 4 * hidden,
        heads=heads,
        layers=layers,
        vocab=int(config.vocab_size),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        num_parameters=sum(sizes.values()),
        num_trainable=num_trainable,
        trained=kind,
        rank=0 if lora is None else lora.rank,
        first=first,
        last=last,
        num_copied=num_trainable if forward.compared else 0,
        num_stacked=_num_stacked(recipe) if kind == "adapter" else 0,
    )


def _num_stacked(recipe: Recipe) -> int:
    """Return the weights of the adapter that the recipe stacks another one on; 0 if its file is not at hand."""
    name, revision = recipe.model.name, recipe.model.revision
    saved = find_adapter(name, revision, online=False) if name and recipe.model.adapter == "stacked" else None
    file = None if saved is None else saved.weights(online=False)
    return 0 if file is None else sum(math.prod(shape) for shape in tensor_shapes(file).values())


def _setting(config: Any, name: str) -> int:
    """Return a setting, or its largest value if layers differ in it; 0 if the architecture has none."""
    try:
        value = getattr(config, name, None)
    except RuntimeError:
        # transformers refuses to read a setting that differs between layers (Gemma 4).
        value = [getattr(layer, name) for layer in config.per_layer_config]
    return max(map(int, value)) if isinstance(value, list) else int(value or 0)


def micro_batch(
    rows: Mapping[str, Sequence[Encoded]], hidden: int, *, joint: bool = True, packed: bool = True
) -> MicroBatch:
    """Return the positions and answer tokens of a micro-batch.

    Args:
        rows: Rows by set.
        hidden: Width of the model, which decides how rows are packed.
        joint: Whether all sets go through the model in one forward pass.
        packed: Whether rows are run without their padding.
    """
    lengths = [[len(row.ids) for row in encoded] for encoded in rows.values()]
    passes = [[length for set_lengths in lengths for length in set_lengths]] if joint else lengths
    positions, width = 0, 0
    for pass_lengths in passes:
        bins = choose_bins(pass_lengths, hidden) if packed else [[index] for index in range(len(pass_lengths))]
        columns = max(sum(pass_lengths[row] for row in members) for members in bins)
        positions, width = positions + len(bins) * columns, max(width, columns)
    return MicroBatch(
        rows=sum(map(len, lengths)),
        positions=positions,
        width=width,
        answers=[sum(row.num_answer for row in encoded) for encoded in rows.values()],
    )
