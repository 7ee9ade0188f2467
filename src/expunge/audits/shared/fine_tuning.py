"""Fine-tune a copy of a model for some steps, stop to measure it, and continue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.sets import Row
from expunge.data.templates import Encoded, Template
from expunge.errors import NumericalError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.capabilities import can_pack
from expunge.modeling.forward import text_config
from expunge.modeling.step import Counts, Step
from expunge.modeling.types import TrainedModel

MAX_GRADIENT_NORM = 1.0
_SET = "train"


def encode_rows(rows: Sequence[Row], template: Template, *, max_length: int, answer_only: bool) -> list[Encoded]:
    """Encode rows for training; tokens beyond `max_length` are cut off, as an attacker would.

    Args:
        rows: Questions with answers, or plain texts.
        template: Converts them to tokens.
        max_length: Tokens of the longest row.
        answer_only: Learn the tokens of the answers; otherwise all tokens but the first, which nothing predicts.
    """
    unlimited = template.without_limit()
    encoded = []
    for row in rows:
        item = unlimited.encode(row.question, row.answer, row.id)
        item = replace(item, ids=item.ids[:max_length], answer_start=item.answer_start if answer_only else 1)
        # A question that fills the row leaves nothing to learn.
        if item.answer_start < len(item.ids):
            encoded.append(item)
    return encoded


def scaled_lr(lr: float, reference_width: int | None, config: Any) -> float:
    """Return a learning rate for the width of a model.

    Formula: lr max(1, reference_width / hidden size), because the best learning rate of Adam falls with the width.

    Args:
        lr: Learning rate for a model of hidden size `reference_width`.
        reference_width: None for the same learning rate at every width.
        config: The model's configuration.

    References:
        Yang et al. 2022, arXiv:2203.03466.
    """
    width = int(text_config(config).hidden_size)
    return lr * max(1.0, (reference_width or 0) / width)


@dataclass(frozen=True)
class Recipe:
    """How a copy is trained: AdamW without weight decay, with a constant learning rate.

    The learning rate is constant so that the model after n steps is the one that a training of n steps would give.
    """

    lr: float
    batch_size: int = 16
    seed: int = 0


class FineTuning:
    """A training that can be stopped after any step, measured, and continued.

    Loss of a step: the mean negative log-probability of all learned tokens of its batch. Gradients are clipped to a
    norm of 1. Batches are cut from one seeded permutation of the rows after another; a set with fewer rows than a
    batch is one batch.

    Args:
        model: The model; the parameters that require a gradient are trained, in float32.
        rows: Encoded rows.
        recipe: Learning rate, batch size and seed.
        pad_id: Id written into padding.
        title: Title of the progress bar.
    """

    def __init__(
        self, model: TrainedModel, rows: Sequence[Encoded], recipe: Recipe, *, pad_id: int, title: str
    ) -> None:
        self.model, self.rows, self.recipe, self.title = model, rows, recipe, title
        self.steps = 0
        """Steps so far."""
        self.batch_size = min(recipe.batch_size, len(rows))
        self._pad_id = pad_id
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._device = self._trained[0].device
        self._optimizer = torch.optim.AdamW(self._trained, lr=recipe.lr, weight_decay=0.0)
        longest = sorted((len(row.ids) for row in rows), reverse=True)[: self.batch_size]
        self._packed = can_pack(causal_lm(model), longest)

    def train_until(self, step: int) -> None:
        """Train until `step` steps are done in total.

        Raises:
            NumericalError: A loss is NaN or infinite.
            Interrupted: A stop was requested.
        """
        self.model.train()
        # Gradients of float16 would underflow without loss scaling; the weights are float32 anyway.
        half = torch.get_autocast_dtype(self._device.type) == torch.float16
        enabled = torch.is_autocast_enabled(self._device.type) and not half
        with (
            progress(self.title, step - self.steps, "steps") as advance,
            torch.random.fork_rng(),
            torch.autocast(self._device.type, enabled=enabled),
        ):
            while self.steps < step:
                # Dropout does not depend on where the training was stopped before.
                torch.manual_seed(self.recipe.seed * 1_000_003 + self.steps)
                self._step()
                advance(1)
        self.model.eval()

    def batch_of(self, step: int) -> list[int]:
        """Return the indices of the rows of one step (0-based)."""
        indices = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, offset = divmod(position, len(self.rows))
            order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.rows))
            indices.append(int(order[offset]))
        return indices

    def _step(self) -> None:
        rows = [self.rows[index] for index in self.batch_of(self.steps)]
        batch = TensorBatch.of(collate(rows, self._pad_id), self._device)
        counts = Counts(rows=batch.num_rows, tokens=len(batch.labels))
        step = Step({_SET: batch}, {_SET: counts}, packed=self._packed)
        step.bind(causal_lm(self.model))
        loss = step.nll(_SET)
        if not math.isfinite(float(loss.detach())):
            raise NumericalError(
                f"{self.title}: the loss of step {self.steps + 1} is not finite at a learning rate of "
                f"{self.recipe.lr:g}.",
                fix="Lower the learning rate.",
            )
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._trained, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self.steps += 1
