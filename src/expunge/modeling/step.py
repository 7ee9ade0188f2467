"""One training step as a method sees it: every forward pass, mask and reference is owned here.

A method asks for what it needs in the words of its paper (`step.logp("forget")`) and gets it from one joint
forward pass over all sets. It never sees padding, devices, micro-batches or other processes.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.losses.divergence import kl_divergence
from expunge.losses.likelihood import row_sums
from expunge.modeling.batch import TensorBatch, join
from expunge.modeling.forward import decode, head_of
from expunge.modeling.hidden.steering_pass import SteeringPass
from expunge.modeling.logprobs import in_chunks, token_logp
from expunge.modeling.reference import FrozenReference, StoredReference

Positions = Literal["labels", "all", "answers"]
"""Where a loss looks: positions that predict answer tokens, every position, or the answer tokens' own positions."""


@dataclass(frozen=True)
class Counts:
    """What a mean over the effective batch divides by: all micro-batches of all processes together."""

    rows: float
    tokens: float


@dataclass(frozen=True)
class LossTerms:
    """The weighted parts of a loss, by name; their sum is minimised."""

    terms: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached numbers to log beside the terms."""

    @property
    def total(self) -> Tensor:
        """The scalar to minimise."""
        return torch.stack(list(self.terms.values())).sum()


class Step:
    """A micro-batch of forget and retain rows, and everything that a loss may ask about them.

    Args:
        batches: One batch per set, such as 'forget' and 'retain'.
        counts: Per set, what means divide by.
        reference_logp: Per set, the (B,) summed log-probabilities under the start model, where the method needs them.
        reference: The frozen start model, where the method needs its logits.
        topic: Topic of the forget rows, where the method asks for batches of one topic.
        packed: Run rows without their padding; the model must allow it (`can_pack`).
        row_ids: Per set, index of each row among all of the set, where the reference is stored by row.
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
        self._model: Any = None
        self._hidden: dict[str, Tensor] = {}
        self._token_logp: dict[str, Tensor] = {}

    def bind(self, model: Any) -> None:
        """Give the step the bare causal language model; called inside its forward pass."""
        self._model = model

    def keep_padding(self) -> None:
        """Run all rows as they are: for losses that look at padding or prompts, or that reach into the forward pass.

        Call it before anything else is asked; what was computed without padding is computed again.
        """
        if self.packed:
            self.packed = False
            self._hidden.clear()

    def hidden(self, name: str) -> Tensor:
        """(B, L, D) last hidden states of a set; the first call runs all sets in one forward pass.

        Those of padding mean nothing, unless the step keeps its padding.
        """
        if not self._hidden:
            names = list(self.batches)
            everything = decode(self._model, join([self.batches[name] for name in names]), self.packed)
            rows = 0
            for each in names:
                batch = self.batches[each]
                self._hidden[each] = everything[rows : rows + batch.num_rows, : batch.input_ids.shape[1]]
                rows += batch.num_rows
        return self._hidden[name]

    def token_logp(self, name: str) -> Tensor:
        """(N,) log-probability of each answer token of a set, end-of-sequence included."""
        if name not in self._token_logp:
            batch = self.batches[name]
            hidden = self.hidden(name)[batch.rows, batch.positions]
            self._token_logp[name] = token_logp(
                head_of(self._model), hidden, batch.labels, self._model.config.vocab_size
            )
        return self._token_logp[name]

    def logp(self, name: str) -> Tensor:
        """(B,) summed log-probability of each answer."""
        batch = self.batches[name]
        return row_sums(self.token_logp(name), batch.rows, batch.num_rows)

    def mean_logp(self, name: str) -> Tensor:
        """(B,) log-probability per answer token."""
        return self.logp(name) / self.batches[name].num_answer

    def nll(self, name: str) -> Tensor:
        """Mean negative log-probability over all answer tokens of the effective batch."""
        return self.token_mean(-self.token_logp(name), name)

    def reference_logp(self, name: str) -> Tensor:
        """(B,) summed log-probability of each answer under the start model."""
        return self._reference_logp[name]

    def from_logits(
        self,
        name: str,
        function: Callable[..., Tensor],
        *,
        positions: Positions = "labels",
        reference: bool = False,
    ) -> Tensor:
        """A value per position from the logits there, projected to the vocabulary in chunks.

        Args:
            name: The set.
            function: Maps logits (n, V) and labels (n,), and with `reference` the start model's logits (n, V) as a
                third argument, to (n,) values. It may run twice, so it must depend on nothing else that changes.
            positions: 'labels' for the N positions that predict an answer token; 'all' for the B * L positions of
                the padded micro-batch, with label -1 where no answer token follows; 'answers' for the N positions
                of the answer tokens themselves, one to the right of those that predict them.
            reference: Whether the function takes the start model's logits.
        """
        if positions == "all":
            self.keep_padding()
        batch, head = self.batches[name], head_of(self._model)
        hidden = [self.hidden(name)]
        if reference:
            assert self._reference is not None, "a method that compares with the reference declares needs.reference"
        if reference and positions != "labels":
            hidden.append(self._reference.hidden(batch, self.packed))  # type: ignore[union-attr]
        if positions == "all":
            labels = torch.full_like(batch.input_ids, -1)
            labels[batch.rows, batch.positions] = batch.labels
            inputs = [labels.flatten(), *(each.flatten(0, 1) for each in hidden)]
        else:
            columns = batch.positions + (positions == "answers")
            inputs = [batch.labels, *(each[batch.rows, columns] for each in hidden)]
        if reference and positions == "labels":
            inputs.append(self._reference.answers(name, self._row_ids.get(name), batch, self.packed))  # type: ignore[union-attr]

        def project(labels: Tensor, part: Tensor, *reference_part: Tensor) -> Tensor:
            return function(head(part), labels, *(self._reference.head(each) for each in reference_part))  # type: ignore[union-attr]

        return in_chunks(project, tuple(inputs), self._model.config.vocab_size)

    def kl(self, name: str, positions: Literal["labels", "all"] = "labels") -> Tensor:
        """Mean KL(reference || model) over answer tokens, or over every position as published code does.

        With 'all', prompt and padding count too, and the mean is of this micro-batch: the number depends on how
        rows were padded, and is offered only to repeat published runs.
        """

        def divergence(logits: Tensor, labels: Tensor, reference_logits: Tensor) -> Tensor:
            return kl_divergence(reference_logits, logits)

        values = self.from_logits(name, divergence, positions=positions, reference=True)
        return self.token_mean(values, name) if positions == "labels" else self.position_mean(values, name)

    def only(self, name: str) -> Step:
        """A step with one of the sets, run in a forward pass of its own: for losses whose gradients stay apart."""
        part = Step({name: self.batches[name]}, self.counts, self._reference_logp, self._reference, packed=self.packed)
        part.bind(self._model)
        return part

    def gradient(self, loss: Tensor) -> list[Tensor]:
        """Gradient of a loss for each trained parameter, in the model's order; `.grad` stays as it is."""
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        return list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))

    def token_mean(self, values: Tensor, *names: str) -> Tensor:
        """Mean of a (N,) value per answer token over the effective batch, of one set or of several as one."""
        return values.sum() / sum(self.counts[name].tokens for name in names)

    def row_mean(self, values: Tensor, name: str) -> Tensor:
        """Mean of a (B,) value per row over the effective batch."""
        return values.sum() / self.counts[name].rows

    def position_mean(self, values: Tensor, name: str) -> Tensor:
        """Mean over the positions of this micro-batch, padding included; micro-batches are weighted by their rows."""
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
        """Mean of a (B, L) value per position over the answers' own tokens (in a text, all tokens but the first)."""
        batch = self.batches[name]
        return self.token_mean(values[batch.rows, batch.positions + 1], name)

    def share(self, name: str) -> float:
        """This micro-batch's share of the rows of the effective batch."""
        return self.batches[name].num_rows / self.counts[name].rows


def attach(model: Any) -> None:
    """Let a causal language model's forward pass run a step, so that every wrapper around it takes part.

    Adapters, autocast, DDP and FSDP hook into `forward`; computing the loss inside it keeps them right without the
    step knowing of them. All other calls reach the original forward.
    """
    original = model.forward
    if getattr(original, "runs_steps", False):
        return

    @functools.wraps(original)
    def forward(
        self: Any,
        *args: Any,
        step: Step | None = None,
        objective: Callable[[Step], LossTerms] | None = None,
        **kw: Any,
    ) -> Any:
        if step is None or objective is None:
            return original(*args, **kw)
        step.bind(self)
        terms = objective(step)
        return {"loss": terms.total, "terms": terms.terms, "metrics": terms.metrics}

    forward.runs_steps = True  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)
