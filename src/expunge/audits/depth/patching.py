"""Log-probabilities of spans by the target, from hidden states of another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.audits.depth.spans import SpanBatch
from expunge.audits.shared.arm import Arm
from expunge.console import progress
from expunge.errors import IncompatibleError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.forward import head_of, vocab_size
from expunge.modeling.hidden.trace import States, final_states, layer_list, normed_states, replace_states, states_at
from expunge.modeling.logprobs import token_logp
from expunge.modeling.types import CausalLM

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Depths:
    """Mean log-probability of the span of n rows; NaN for rows that were not measured."""

    target: Floats
    """(n,) by the target."""
    output: Floats
    """(n,) by the measured model."""
    retain_output: Floats
    """(n,) by the retain model."""
    patched: Floats
    """(n, layers) by the target, with hidden states of the measured model in one layer."""
    retain_patched: Floats
    """(n, layers) by the target, with hidden states of the retain model in one layer."""
    lens: Floats
    """(n, layers) by the target's final norm and head, from the hidden states of one layer of the measured model."""


@torch.no_grad()
def measure_depths(arm: Arm, batches: Sequence[SpanBatch], num_rows: int) -> Depths:
    """Patch hidden states of an arm and of the retain model into the target.

    Every model runs the same batches, so that equal weights give equal values. In memory are two models, and in CPU
    memory the retain model's hidden states at the spans: layers x span tokens x width values.

    Args:
        arm: The measured model; the audit has a target and a retain model.
        batches: Rows with their spans.
        num_rows: Number of all rows, n.

    Raises:
        IncompatibleError: The models have different shapes.
    """
    source = causal_lm(arm.model)
    if arm.role == "retain":
        stored = None
    else:
        with arm.other("retain") as retain:
            _check_shape(arm, retain)
            stored = _store(causal_lm(retain.model), batches, arm.label)
    if arm.role == "target":
        return _measure(source, source, stored, batches, num_rows, arm.label)
    with arm.other("target") as target:
        _check_shape(arm, target)
        return _measure(causal_lm(target.model), source, stored, batches, num_rows, arm.label)


@dataclass(frozen=True)
class _Stored:
    """Hidden states of the retain model at the span of a batch, in CPU memory, and what they predict."""

    layers: Tensor
    logp: Tensor


def _store(model: CausalLM, batches: Sequence[SpanBatch], label: str) -> list[_Stored]:
    stored = []
    with progress(f"Hidden states of the retain model for {label}", len(batches), "batches") as advance:
        for batch in batches:
            states = _states(model, batch)
            stored.append(_Stored(states.layers.cpu(), _logp(model, states.final, batch).cpu()))
            advance(1)
    return stored


def _measure(
    target: CausalLM,
    source: CausalLM,
    stored: Sequence[_Stored] | None,
    batches: Sequence[SpanBatch],
    num_rows: int,
    label: str,
) -> Depths:
    """Measure all rows; without stored hidden states the source is the retain model itself."""
    num_layers = len(layer_list(target)[1])
    shapes: dict[str, tuple[int, ...]] = {field.name: (num_rows, num_layers) for field in fields(Depths)}
    shapes |= dict.fromkeys(("target", "output", "retain_output"), (num_rows,))
    depths = Depths(**{name: np.full(shape, np.nan) for name, shape in shapes.items()})
    with progress(f"Patching {label}", len(batches), "batches") as advance:
        for number, batch in enumerate(batches):
            states = _states(source, batch)
            output = _logp(source, states.final, batch)
            patched = _patched(target, states.layers, batch)
            lens = _lens(target, states.layers, batch)
            unpatched = _logp(target, _states(target, batch).final, batch)
            if stored is None:
                retain_output, retain_patched = output, patched
            else:
                retain_output, retain_patched = stored[number].logp, _patched(target, stored[number].layers, batch)
            rows = batch.indices
            depths.target[rows] = batch.row_means(unpatched)
            depths.output[rows] = batch.row_means(output)
            depths.retain_output[rows] = batch.row_means(retain_output)
            depths.patched[rows] = batch.row_means(patched).T
            depths.retain_patched[rows] = batch.row_means(retain_patched).T
            depths.lens[rows] = batch.row_means(lens).T
            advance(1)
    return depths


def _states(model: CausalLM, batch: SpanBatch) -> States:
    tensors = batch.tensors.to(model.device)
    return states_at(model, tensors, tensors.rows, tensors.positions)


def _logp(model: CausalLM, final: Tensor, batch: SpanBatch) -> Tensor:
    """Return the log-probability of each span token, (N,), on the CPU."""
    labels = batch.tensors.labels.to(model.device)
    return token_logp(head_of(model), final.to(model.device), labels, vocab_size(model)).cpu()


def _patched(target: CausalLM, layers: Tensor, batch: SpanBatch) -> Tensor:
    """Return (layers, N) log-probabilities by the target, with the given hidden states in one layer at a time.

    Replaced are the hidden states at the positions that predict the span.
    """
    tensors = batch.tensors.to(target.device)
    results = []
    for layer, states in enumerate(layers):
        with replace_states(target, layer, tensors.rows, tensors.positions, states):
            final = final_states(target, tensors)[tensors.rows, tensors.positions]
        results.append(_logp(target, final, batch))
    return torch.stack(results)


def _lens(target: CausalLM, layers: Tensor, batch: SpanBatch) -> Tensor:
    """Return (layers, N) log-probabilities by the target's final norm and head."""
    tensors = batch.tensors.to(target.device)
    return torch.stack(
        [
            _logp(target, normed_states(target, tensors, tensors.rows, tensors.positions, states), batch)
            for states in layers
        ]
    )


def _check_shape(arm: Arm, control: Arm) -> None:
    ours, theirs = _shape(arm.model), _shape(control.model)
    if ours != theirs:
        raise IncompatibleError(
            f"{arm.label} has {ours[0]} layers of width {ours[1]}, but {control.label} has {theirs[0]} of width "
            f"{theirs[1]}, so hidden states of one cannot replace those of the other.",
            fix="Leave out the audit depth, or give models of one architecture.",
        )


def _shape(model: Any) -> tuple[int, int]:
    bare = causal_lm(model)
    return len(layer_list(bare)[1]), int(bare.get_input_embeddings().weight.shape[1])
