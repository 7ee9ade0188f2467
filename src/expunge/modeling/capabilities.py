"""Find out by trying what a model supports: packed rows, stored hidden states."""

from __future__ import annotations

from typing import Any

import torch

from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode
from expunge.modeling.hidden.row_store import GIB, RowStore
from expunge.modeling.hidden.trace import layer_trace


@torch.no_grad()
def can_pack(model: Any) -> bool:
    """Whether packed rows give this model the hidden states that they have alone, found by trying.

    Architectures differ in how they make masks: some ignore positions, some have a state that runs through
    everything before it. What they were given here decides, not their name.

    Args:
        model: The bare causal language model.
    """
    config = model.config.get_text_config()
    lengths, size = (9, 5, 7), min(config.vocab_size, 50)
    ids = torch.arange(3 * 9).view(3, 9) * 7 % (size - 1) + 1
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    device = next(model.parameters()).device
    empty = torch.zeros(0, dtype=torch.long, device=device)
    batch = TensorBatch(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        rows=empty,
        positions=empty,
        labels=empty,
        num_answer=torch.zeros(3, dtype=torch.long, device=device),
        spans=tuple((0, length) for length in lengths),
    )
    training = model.training
    model.eval()
    try:
        alone, packed = (decode(model, batch, packed=way)[mask.bool().to(device)].float() for way in (False, True))
    except (RuntimeError, ValueError, TypeError):
        # An architecture that cannot take positions without a mask; it is run with padding.
        return False
    finally:
        model.train(training)
    exact = next(model.parameters()).dtype == torch.float32
    return bool((alone - packed).abs().max() <= (1e-4 if exact else 5e-2) * alone.abs().max())


@torch.no_grad()
def can_store(model: Any, first: int, layer: int, padding: bool) -> bool:
    """Whether states of rows can be used again in other company, found by trying.

    They cannot where layers are random (dropout), where a later layer looks at what an earlier one computed besides
    its output, or, with `padding`, where the state of padding depends on its column.

    Args:
        model: The bare causal language model.
        first: The lowest trained layer.
        layer: The last layer that is run.
        padding: Whether padding's states count too.
    """
    device, config = next(model.parameters()).device, model.config.get_text_config()
    size = min(config.vocab_size, 50) - 1
    some = [Encoded(tuple(1 + (7 * k + 3 * length) % size for k in range(length)), 1) for length in (9, 5, 7)]
    narrow, wide = (TensorBatch.of(collate(some, 0, extra_padding=extra), device) for extra in (1, 4))
    store = RowStore(first, GIB, {"": {0: 2, 1: 2, 2: 2}}, padding=padding)
    training = model.training
    model.train()
    try:
        with torch.random.fork_rng():
            trace = layer_trace(model, narrow, layer, first=first)
            store.keep("", range(3), narrow, [each for each in (trace.entering, trace.hidden) if each is not None])
            states = store.read("", range(3), wide)
            plain = layer_trace(model, wide, layer).hidden
            entering = states[0] if first else None
            found = layer_trace(model, wide, layer, first=first, entering=entering).hidden
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        # A later layer asks an earlier one for more than its output.
        return False
    finally:
        model.train(training)
    mask = torch.ones_like(wide.attention_mask) if padding else wide.attention_mask
    exact = next(model.parameters()).dtype not in {torch.bfloat16, torch.float16}
    allowed = (1e-4 if exact else 5e-2) * plain.float().abs().max()
    return all(float((each - plain)[mask.bool()].float().abs().max()) <= allowed for each in (found, states[-1]))
