"""The counts that a training's memory and time follow from: of the model, of what is trained, of a micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.config.recipe import Recipe
from expunge.data.templates import Encoded
from expunge.methods.base import Forward
from expunge.modeling.adapters import add_lora
from expunge.modeling.hidden.trace import check_layers
from expunge.modeling.packing import choose
from expunge.records import Record


@dataclass(frozen=True)
class Shape:
    """A model and the part of it that is trained."""

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
    """All weights (or nearly all of the layers that are run), a LoRA adapter, or a few modules."""
    rank: int
    """Of the adapter; 0 without one."""
    first: int
    """Lowest layer with a trained weight: nothing is kept for the backward pass below it."""
    last: int
    """Highest layer that is run."""
    num_copied: int
    """Trained weights of which a frozen copy is kept, to compare hidden states (`Forward.compared`)."""

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.vocab * self.hidden

    @property
    def per_layer(self) -> int:
        """Weights of one decoder layer."""
        return (self.num_parameters - self.head * (1 if self.tied else 2)) // self.layers


class MicroBatch(Record):
    """What a device has in hand at a time."""

    rows: int
    positions: int
    """Tokens that the model is run on, with what packing leaves empty."""
    width: int
    """Columns of the (packed) rows: the attention mask has positions x width values."""
    answers: list[int]
    """Answer tokens, set by set."""


def shape_of(recipe: Recipe, model: Any, section: str = "train") -> Shape:
    """Count a model on the meta device; it is left as it was.

    Args:
        recipe: The recipe.
        model: The model without weights.
        section: The training: 'train', 'target', 'retain_model' or 'method.NAME'. Target and retain model train all
            weights, also where the recipe has an adapter.
    """
    config = model.config.get_text_config()
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layers = int(config.num_hidden_layers)
    unlearning = section == "train"
    lora = None if section in {"target", "retain_model"} else recipe.model.lora
    chosen = recipe.method.trainable(model) if unlearning and lora is None else None
    num_trainable, first, last = sum(sizes[name] for name in (sizes if chosen is None else chosen)), 0, layers - 1
    forward = recipe.method.needs().forward if unlearning else Forward()
    if forward.last_layer is not None:
        check_layers(model, "needs().forward.last_layer", [forward.last_layer])
        last = forward.last_layer
    if chosen is not None:
        # Weights outside of layers have no number; embeddings lie below layer 0.
        first = max(0, min((_layer_number(name) for name in chosen), default=0))
    if lora is not None:
        adapted = add_lora(model, lora, recipe.seed)
        num_trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        adapted.unload()
    kind: Literal["all", "adapter", "some"] = "all" if lora is None else "adapter"
    in_reach = sum(size for name, size in sizes.items() if first <= _layer_number(name) <= last)
    if chosen is not None and 2 * num_trainable < in_reach:
        kind = "some"
    return Shape(
        hidden=hidden,
        queries=heads * int(getattr(config, "head_dim", None) or hidden // heads),
        inner=int(getattr(config, "intermediate_size", None) or 4 * hidden),
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
    )


def micro_batch(
    rows: Mapping[str, Sequence[Encoded]], hidden: int, *, joint: bool = True, packed: bool = True
) -> MicroBatch:
    """What some rows come to when they are run.

    Args:
        rows: Rows by set.
        hidden: Width of the model, which decides how rows are packed.
        joint: Whether all sets go through the model in one forward pass.
        packed: Whether they go without their padding.
    """
    lengths = [[len(row.ids) for row in part] for part in rows.values()]
    passes = [[length for part in lengths for length in part]] if joint else lengths
    positions, width = 0, 0
    for one in passes:
        bins = choose(one, hidden) if packed else [[index] for index in range(len(one))]
        columns = max(sum(one[row] for row in members) for members in bins)
        positions, width = positions + len(bins) * columns, max(width, columns)
    return MicroBatch(
        rows=sum(map(len, lengths)),
        positions=positions,
        width=width,
        answers=[sum(row.num_answer for row in part) for part in rows.values()],
    )


def _layer_number(parameter: str) -> int:
    """The layer that a parameter belongs to; -1 for one that belongs to none."""
    return next((int(part) for part in parameter.split(".") if part.isdigit()), -1)
