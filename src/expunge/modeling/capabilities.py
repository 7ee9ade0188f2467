"""Detect by trial runs whether a model supports packed rows and stored hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from expunge.data.collate import collate
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import MODEL_ERRORS, decode, length_limits, output_path, run_inputs, trial_rows
from expunge.modeling.hidden.row_store import can_store
from expunge.modeling.packing import pack
from expunge.modeling.types import CausalLM

__all__ = ["can_pack", "can_store"]

_SHORT = (9, 5, 7)
"""Lengths of the rows of a trial."""


@torch.no_grad()
def can_pack(model: CausalLM, lengths: Sequence[int] = ()) -> bool:
    """Return whether packed rows have the same hidden states as rows run alone, by running both.

    Architectures differ in how they build masks: some ignore positions, and recurrent ones carry their state across
    row boundaries. A trial run also covers architectures that are not listed anywhere.

    Args:
        model: The model.
        lengths: Tokens of the rows of the largest batch. The trial has these lengths if the model may treat as many
            tokens differently, and is on short rows otherwise.
    """
    if not output_path(model).positions:
        return False
    if len(lengths) < 2 or not length_limits(model, sum(_SHORT), sum(lengths)):
        lengths = _SHORT
    batch = TensorBatch.of(collate(trial_rows(model, lengths), 0), next(model.parameters()).device)
    packing = pack(batch.spans, batch.input_ids.shape[1], model, single=True)
    assert packing is not None, "several rows fit into one"
    training = model.training
    model.eval()
    try:
        alone = decode(model, batch)
        inputs = {"input_ids": packing.pack(batch.input_ids), "position_ids": packing.position_ids}
        together = packing.unpack(run_inputs(model, inputs))
    except MODEL_ERRORS:
        # Some architectures reject positions without a mask; they are run with padding.
        return False
    finally:
        model.train(training)
    real = batch.attention_mask.bool()
    difference = (alone - together)[real].float().abs().max()
    exact = next(model.parameters()).dtype == torch.float32
    return bool(difference <= (1e-4 if exact else 5e-2) * alone[real].float().abs().max())
