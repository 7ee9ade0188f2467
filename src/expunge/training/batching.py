"""Assign rows to optimiser steps and micro-batches: seeded, and the same for any number of processes."""

from __future__ import annotations

import collections
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch.utils.data import Dataset

from expunge.config.recipe import Train
from expunge.data.collate import TokenBatch, collate, num_answer_tokens
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError, UserError
from expunge.modeling.step import Counts

if TYPE_CHECKING:
    from expunge.methods.base import Needs

Pairing = Literal["permutation", "random", "modulo"]


class BatchPlan(Dataset[dict[str, Any]]):
    """All micro-batches of a training, in order; `BatchPlan.of` builds the plan that a method needs.

    The first set is the anchor (the forget set, or the training set of a fine-tuning) and defines an epoch: its rows
    are taken in one seeded permutation after another and cut into effective batches. The last rows of an epoch may
    share a batch with the first rows of the next, as in published trainings: steps = floor(epochs * rows / batch_size).
    Every other set contributes as many rows per step, paired by `train.retain_pairing`.

    Rows of an effective batch are sorted by length before they are split into micro-batches. This saves padding and
    changes no result, because means are taken over the effective batch.

    Args:
        sets: Encoded rows per set; the first set is the anchor.
        train: Number of steps, batch sizes, pairing, order and normalisation.
        pad_id: Id written into padding.
        world_size: Number of processes.
        seed: Seed of all permutations.
        aligned: Sets whose row i belongs to the anchor's row i, so that both are in the same batch.
        by_topic: Whether all anchor rows of a batch have the same topic; batch i then has topic i mod K, and the rows
            of each topic are permuted separately.

    Raises:
        UserError: The batch is too small for the number of processes.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[Encoded]],
        train: Train,
        *,
        pad_id: int,
        world_size: int = 1,
        seed: int = 0,
        aligned: Sequence[str] = (),
        by_topic: bool = False,
    ) -> None:
        self.sets, self.pad_id, self.world_size, self.seed = dict(sets), pad_id, world_size, seed
        self.pairing: Pairing = train.retain_pairing
        self.normalize, self.order, self.aligned = train.normalize, train.order, set(aligned)
        self.learned_length = train.max_length if train.learn_padding else 0
        self.anchor = next(iter(self.sets))
        self.num_rows, self.batch_size = len(self.sets[self.anchor]), train.batch_size
        if self.batch_size < world_size:
            raise UserError(
                f"batch_size {self.batch_size} is less than the number of processes ({world_size}).",
                fix="Raise batch_size or start fewer processes.",
            )
        self.accumulation = math.ceil(self.batch_size / (world_size * train.device_batch_size))
        if self.accumulation * world_size > self.batch_size:
            raise UserError(
                f"batch_size {self.batch_size} cannot fill {world_size} processes x {self.accumulation} micro-batches.",
                fix=f"Set device_batch_size to 2 or more, or batch_size to a multiple of {world_size}.",
            )
        self.steps = train.steps or max(1, math.floor(round((train.epochs or 0) * self.num_rows / self.batch_size, 6)))
        self._rows_by_topic: dict[str, list[int]] = {}
        for index, row in enumerate(self.sets[self.anchor]):
            self._rows_by_topic.setdefault(row.topic if by_topic else "", []).append(index)

    @classmethod
    def of(
        cls,
        train: Train,
        sets: Mapping[str, Sequence[Encoded]],
        needs: Needs | None,
        *,
        pad_id: int,
        world_size: int,
        seed: int,
    ) -> BatchPlan:
        """Return the plan of a training.

        Args:
            train: Settings of the training.
            sets: Encoded rows per set; the first set is the anchor.
            needs: What the unlearning method needs, or None for a fine-tuning.
            pad_id: Id written into padding.
            world_size: Number of processes.
            seed: Seed of all permutations.

        Raises:
            UserError: The batch is too small for the number of processes.
        """
        return cls(
            sets,
            train,
            pad_id=pad_id,
            world_size=world_size,
            seed=seed,
            aligned=needs.aligned if needs else (),
            by_topic=bool(needs and needs.by_topic),
        )

    def __len__(self) -> int:
        """Return the number of micro-batches of all steps and processes."""
        return self.steps * self.accumulation * self.world_size

    @property
    def topics(self) -> tuple[str, ...]:
        """The anchor's topics, in the order of their batches."""
        return tuple(self._rows_by_topic)

    def epoch_of(self, step: int) -> float:
        """Return the number of passes over the anchor after `step` optimiser steps."""
        return step * self.batch_size / self.num_rows

    def warmup_steps(self, config: Train, title: str = "train") -> int:
        """Return the number of warm-up steps; the default is cut at the end of the training.

        Raises:
            IncompatibleError: Warm-up was set and is not shorter than the training.
        """
        steps = config.warmup_steps
        if steps is None:
            steps = int(round(config.warmup_epochs * self.num_rows / self.batch_size, 6))
        name = config.warmup_setting
        if name and steps >= self.steps:
            raise IncompatibleError(
                f"{title}: {name} {getattr(config, name):g}: warm-up ({steps} steps) is not shorter than the training "
                f"({self.steps} steps).",
                fix=f"Set a smaller {name}, or train for longer.",
            )
        return min(self.steps, steps)

    def epoch_ends(self) -> list[int]:
        """Return the steps after which a pass over the anchor is complete, and the last step."""
        passes = max(1, round(self.epoch_of(self.steps)))
        ends = {min(self.steps, max(1, round(k * self.num_rows / self.batch_size))) for k in range(1, passes + 1)}
        return sorted(ends | {self.steps})

    def rows_of(self, step: int) -> dict[str, list[int]]:
        """Return the row indices of one effective batch (0-based step) per set, in the order in which it is split."""
        topic_turn, topic_index = divmod(step, len(self.topics))
        topic = self.topics[topic_index]
        topic_rows = self._rows_by_topic[topic]
        # Positions in the endless sequences of rows: a topic's own sequence advances only in its own batches.
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        topic_positions = range(topic_turn * self.batch_size, (topic_turn + 1) * self.batch_size)
        offsets = [self._row_at(self.anchor + topic, len(topic_rows), i, self.order) for i in topic_positions]
        anchor = [topic_rows[offset] for offset in offsets]
        rows = {self.anchor: anchor}
        for name, encoded in self.sets.items():
            if name in self.aligned:
                rows[name] = anchor
            elif name != self.anchor and self.pairing == "modulo":
                rows[name] = [offset % len(encoded) for offset in offsets]
            elif name != self.anchor:
                rows[name] = [self._row_at(name, len(encoded), i, self.pairing) for i in positions]
        if self.normalize == "batch":
            order = np.argsort([-len(self.sets[self.anchor][row].ids) for row in anchor], kind="stable")
            for name, indices in rows.items():
                if name == self.anchor or name in self.aligned:
                    rows[name] = [indices[i] for i in order]
                else:
                    rows[name] = sorted(indices, key=lambda row: -len(self.sets[name][row].ids))
        return rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return micro-batch `index`: process index % world_size, accumulation round index // world_size."""
        num_micro_batches = self.accumulation * self.world_size
        step, micro_batch = divmod(index, num_micro_batches)
        batches, counts, rows = {}, {}, {}
        for name, indices in self.rows_of(step).items():
            # Process p takes micro-batches p, p + world_size, ..., so all processes have similar shapes in a round.
            selected = np.array_split(np.asarray(indices), num_micro_batches)[micro_batch].tolist()
            encoded = [self.sets[name][row] for row in selected]
            batches[name] = collate(encoded, self.pad_id, learned_length=self.learned_length)
            rows[name] = np.asarray(selected)
            if self.normalize == "batch":
                num_tokens = sum(num_answer_tokens(self.sets[name][row], self.learned_length) for row in indices)
                counts[name] = Counts(rows=len(indices), tokens=num_tokens)
            else:
                num_tokens = sum(num_answer_tokens(row, self.learned_length) for row in encoded)
                counts[name] = Counts(rows=len(selected) * num_micro_batches, tokens=num_tokens * num_micro_batches)
        return {"batches": batches, "counts": counts, "rows": rows, "topic": self.topics[step % len(self.topics)]}

    def visits(self) -> dict[str, dict[int, int]]:
        """Return how often each row is used in the training, per set; rows that are never used are left out."""
        counts = {name: collections.Counter[int]() for name in self.sets}
        for step in range(self.steps):
            for name, rows in self.rows_of(step).items():
                counts[name].update(rows)
        return {name: dict(count) for name, count in counts.items()}

    def effective_batch(self, name: str, step: int) -> TokenBatch:
        """Return all rows of a set in one optimiser step as one batch."""
        rows = [self.sets[name][row] for row in self.rows_of(step)[name]]
        return collate(rows, self.pad_id, learned_length=self.learned_length)

    def _row_at(self, tag: str, size: int, position: int, order: str) -> int:
        """Return which of `size` rows is at a position of an endless sequence; `tag` selects its random stream."""
        if order == "random":
            return int(np.random.default_rng([self.seed, zlib.crc32(tag.encode()), position]).integers(size))
        epoch, offset = divmod(position, size)
        return offset if order == "file" else int(self._permutation(tag, size, epoch)[offset])

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as the training
    def _permutation(self, tag: str, size: int, epoch: int) -> Any:
        return np.random.default_rng([self.seed, zlib.crc32(tag.encode()), epoch]).permutation(size)
