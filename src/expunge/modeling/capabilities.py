"""Detect by trial runs whether a model supports packed rows and stored hidden states."""

from __future__ import annotations

import torch

from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode
from expunge.modeling.hidden.row_store import GIB, RowStore
from expunge.modeling.hidden.trace import layer_trace
from expunge.modeling.types import CausalLM


@torch.no_grad()
def can_pack(model: CausalLM) -> bool:
    """Return whether packed rows have the same hidden states as rows run alone, by running both.

    Architectures differ in how they build masks: some ignore positions, and recurrent ones carry their state across
    row boundaries. A trial run also covers architectures that are not listed anywhere.
    """
    config = model.config.get_text_config()
    # Arbitrary token ids, without 0, which often is the padding token.
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
        alone, together = (
            decode(model, batch, packed=packed)[mask.bool().to(device)].float() for packed in (False, True)
        )
    except (RuntimeError, ValueError, TypeError):
        # Some architectures reject positions without a mask; they are run with padding.
        return False
    finally:
        model.train(training)
    exact = next(model.parameters()).dtype == torch.float32
    return bool((alone - together).abs().max() <= (1e-4 if exact else 5e-2) * alone.abs().max())


@torch.no_grad()
def can_store(model: CausalLM, first: int, layer: int, padding: bool) -> bool:
    """Return whether stored hidden states of a row can be reused in a batch with other rows, by a trial run.

    They cannot if layers are random (dropout), if a layer uses more of an earlier layer than its output, or, with
    `padding`, if the state of padding depends on its column.

    Args:
        model: The model.
        first: The lowest trained layer.
        layer: The last layer that is run.
        padding: Whether the states of padding are used too.
    """
    device, config = next(model.parameters()).device, model.config.get_text_config()
    size = min(config.vocab_size, 50) - 1
    rows = [Encoded(tuple(1 + (7 * k + 3 * length) % size for k in range(length)), 1) for length in (9, 5, 7)]
    narrow, wide = (TensorBatch.of(collate(rows, 0, extra_padding=extra), device) for extra in (1, 4))
    store = RowStore(first, GIB, {"": {0: 2, 1: 2, 2: 2}}, padding=padding)
    training = model.training
    # Training mode, in which dropout is active.
    model.train()
    try:
        with torch.random.fork_rng():
            trace = layer_trace(model, narrow, layer, first=first)
            store.keep("", range(3), narrow, [state for state in (trace.entering, trace.hidden) if state is not None])
            states = store.read("", range(3), wide)
            plain = layer_trace(model, wide, layer).hidden
            entering = states[0] if first else None
            resumed = layer_trace(model, wide, layer, first=first, entering=entering).hidden
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        # A layer needs more of an earlier layer than its output, such as its keys and values.
        return False
    finally:
        model.train(training)
    mask = torch.ones_like(wide.attention_mask) if padding else wide.attention_mask
    exact = next(model.parameters()).dtype not in {torch.bfloat16, torch.float16}
    tolerance = (1e-4 if exact else 5e-2) * plain.float().abs().max()
    return all(
        float((result - plain)[mask.bool()].float().abs().max()) <= tolerance for result in (resumed, states[-1])
    )
