"""A training step as a loss sees it: the micro-batch, its forward passes, masks and reference.

A loss uses the terms of its paper (`step.logp("forget")`), and all sets share one joint forward pass. It need not
handle padding, devices, micro-batches or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.losses.divergence import kl_divergence
from expunge.losses.likelihood import row_sums
from expunge.modeling.batch import TensorBatch, join
from expunge.modeling.forward import decode, head_of, vocab_size
from expunge.modeling.hidden.steering_pass import SteeringPass
from expunge.modeling.logprobs import in_chunks, token_logp
from expunge.modeling.reference import FrozenReference, StoredReference
from expunge.modeling.types import CausalLM

Positions = Literal["labels", "all", "answers"]
"""Positions that a loss uses: those that predict answer tokens, all of them, or those of the answer tokens."""


@dataclass(frozen=True)
class Counts:
    """Divisors of means over the effective batch: all micro-batches of all processes together."""

    rows: float
    tokens: float


@dataclass(frozen=True)
class LossTerms:
    """The weighted terms of a loss, by name; their sum is minimised."""

    terms: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached values to log with the terms."""

    @property
    def total(self) -> Tensor:
        """Return the scalar to minimise."""
        return torch.stack(list(self.terms.values())).sum()


class Step:
    """A micro-batch of one or more sets, with everything that a loss needs to know about it.

    Args:
        batches: One batch per set, such as 'forget' and 'retain'.
        counts: Per set, the divisors of means.
        reference_logp: Per set, the (B,) summed log-probabilities under the reference, if the method needs them.
        reference: The frozen reference, if the method needs its logits.
        topic: Topic of the forget rows, for methods that train on batches of one topic.
        packed: Run rows without padding; the model has to support it (`can_pack`).
        row_ids: Per set, the index of each row in the full set, for hidden states that are stored by row.
    """

    def __init__(
        self,
        batches: Mapping[str, TensorBatch],
        counts: Mapping[str, Counts],
        reference_logp: Mapping[str, Tensor] | None = None,
        reference: FrozenReference | StoredReference | None = None,
        topic: str = "",
        packed: bool = False,
        row_ids: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        self._row_ids = dict(row_ids or {})
        self.batches, self.counts, self.topic, self.packed = dict(batches), dict(counts), topic, packed
        self._reference_logp, self._reference = dict(reference_logp or {}), reference
        self._model: CausalLM
        self._hidden: dict[str, Tensor] = {}
        self._token_logp: dict[str, Tensor] = {}

    def bind(self, model: CausalLM) -> None:
        """Set the model of the step; `attach` calls this inside the model's forward pass."""
        self._model = model

    def keep_padding(self) -> None:
        """Run the rows with padding, for losses that use positions outside of answers or hook into the forward pass.

        Call it first: a forward pass that was already run without padding is run again.
        """
        if self.packed:
            self.packed = False
            self._hidden.clear()

    def hidden(self, name: str) -> Tensor:
        """Return the last hidden states of a set, (B, L, D); the first call runs all sets in one forward pass.

        Those of padding are undefined, unless the step keeps padding.
        """
        if not self._hidden:
            joint = decode(self._model, join(list(self.batches.values())), self.packed)
            start = 0
            for set_name, batch in self.batches.items():
                self._hidden[set_name] = joint[start : start + batch.num_rows, : batch.input_ids.shape[1]]
                start += batch.num_rows
        return self._hidden[name]

    def token_logp(self, name: str) -> Tensor:
        """Return the log-probability of each answer token of a set, (N,), end-of-sequence tokens included."""
        if name not in self._token_logp:
            batch = self.batches[name]
            hidden = self.hidden(name)[batch.rows, batch.positions]
            self._token_logp[name] = token_logp(head_of(self._model), hidden, batch.labels, vocab_size(self._model))
        return self._token_logp[name]

    def logp(self, name: str) -> Tensor:
        """Return the summed log-probability of each answer, (B,)."""
        batch = self.batches[name]
        return row_sums(self.token_logp(name), batch.rows, batch.num_rows)

    def mean_logp(self, name: str) -> Tensor:
        """Return the log-probability per token of each answer, (B,)."""
        return self.logp(name) / self.batches[name].num_answer

    def nll(self, name: str) -> Tensor:
        """Return the mean negative log-probability over all answer tokens of the effective batch."""
        return self.token_mean(-self.token_logp(name), name)

    def reference_logp(self, name: str) -> Tensor:
        """Return the summed log-probability of each answer under the reference, (B,)."""
        return self._reference_logp[name]

    def from_logits(
        self,
        name: str,
        function: Callable[..., Tensor],
        *,
        positions: Positions = "labels",
        reference: bool = False,
    ) -> Tensor:
        """Return a value per position, computed from its logits, which are projected in chunks.

        Args:
            name: The set.
            function: Maps logits (n, V) and labels (n,), and with `reference` the reference's logits (n, V) as a third
                argument, to (n,) values. It may be called twice per chunk, so it must be deterministic.
            positions: 'labels' for the N positions that predict an answer token; 'all' for the B * L positions of
                the padded micro-batch, with label -1 where no answer token follows; 'answers' for the N positions
                of the answer tokens themselves, one to the right of those that predict them.
            reference: Whether the function takes the reference's logits.
        """
        if positions == "all":
            self.keep_padding()
        batch, head = self.batches[name], head_of(self._model)
        frozen = self._reference if reference else None
        assert frozen is not None or not reference, "a method that uses the reference's logits declares needs.reference"
        hidden = [self.hidden(name)]
        if frozen is not None and positions != "labels":
            hidden.append(frozen.hidden(batch, self.packed))
        if positions == "all":
            labels = torch.full_like(batch.input_ids, -1)
            labels[batch.rows, batch.positions] = batch.labels
            inputs = [labels.flatten(), *(states.flatten(0, 1) for states in hidden)]
        else:
            columns = batch.positions + (positions == "answers")
            inputs = [batch.labels, *(states[batch.rows, columns] for states in hidden)]
        if frozen is not None and positions == "labels":
            inputs.append(frozen.answers(name, self._row_ids.get(name), batch, self.packed))
        heads = [head] if frozen is None else [head, frozen.head]

        def project(labels: Tensor, *hidden_chunks: Tensor) -> Tensor:
            logits, *reference_logits = (
                to_logits(chunk) for to_logits, chunk in zip(heads, hidden_chunks, strict=True)
            )
            return function(logits, labels, *reference_logits)

        return in_chunks(project, tuple(inputs), vocab_size(self._model))

    def kl(self, name: str, positions: Literal["labels", "all"] = "labels") -> Tensor:
        """Return the mean KL(reference || model) over answer tokens, or over all positions as published code does.

        'all' includes prompts and padding and averages over the micro-batch, so the value depends on how rows are
        padded; use it only to reproduce published runs.
        """

        def divergence(logits: Tensor, labels: Tensor, reference_logits: Tensor) -> Tensor:
            return kl_divergence(reference_logits, logits)

        values = self.from_logits(name, divergence, positions=positions, reference=True)
        return self.token_mean(values, name) if positions == "labels" else self.position_mean(values, name)

    def only(self, name: str) -> Step:
        """Return a step with a single set, run in a separate forward pass, for losses that need separate gradients."""
        step = Step({name: self.batches[name]}, self.counts, self._reference_logp, self._reference, packed=self.packed)
        step.bind(self._model)
        return step

    def gradient(self, loss: Tensor) -> list[Tensor]:
        """Return the gradient of a loss for each trained parameter, in the model's order; `.grad` is not changed."""
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        return list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))

    def token_mean(self, values: Tensor, *names: str) -> Tensor:
        """Return the mean over the effective batch of (N,) values per answer token, of one set or several pooled."""
        return values.sum() / sum(self.counts[name].tokens for name in names)

    def row_mean(self, values: Tensor, name: str) -> Tensor:
        """Return the mean over the effective batch of (B,) values per row."""
        return values.sum() / self.counts[name].rows

    def position_mean(self, values: Tensor, name: str) -> Tensor:
        """Return the mean over all positions, padding included, weighted by this micro-batch's share of rows."""
        return values.mean() * self.share(name)

    def layer(self, name: str, steering: SteeringPass) -> Tensor:
        """Return the (B, L, D) output of the steered decoder layer for a set.

        Only hidden states of answer tokens are defined, unless the step keeps its padding.
        """
        rows = self._row_ids[name].tolist() if name in self._row_ids else None
        return steering.hidden(self.batches[name], self.packed, name, rows)

    def layer_and_frozen(self, name: str, steering: SteeringPass) -> tuple[Tensor, Tensor]:
        """Return what `layer` does, and the same under the frozen weights."""
        rows = self._row_ids[name].tolist() if name in self._row_ids else None
        return steering.hidden_and_frozen(self.batches[name], self.packed, name, rows)

    def answer_mean(self, values: Tensor, name: str) -> Tensor:
        """Return the mean of (B, L) values over the positions of answer tokens (in a text, all but the first token)."""
        batch = self.batches[name]
        return self.token_mean(values[batch.rows, batch.positions + 1], name)

    def share(self, name: str) -> float:
        """Return this micro-batch's share of the rows of the effective batch."""
        return self.batches[name].num_rows / self.counts[name].rows
