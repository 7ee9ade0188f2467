"""Which rows are in which optimiser step: seeded, the same for any number of processes, every row once per pass."""

from __future__ import annotations

import collections
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from expunge.config.recipe import Train
from expunge.data.collate import TokenBatch, collate
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError, UserError
from expunge.modeling.step import Counts

Pairing = Literal["permutation", "random", "modulo"]


class BatchPlan(Dataset[dict[str, Any]]):
    """All micro-batches of a training, in order.

    The anchor set (forget, or the training set of a fine-tune) sets the pace: its rows come as one seeded
    permutation after another, cut into effective batches. An epoch's last rows may share a batch with the next
    epoch's first ones, as in published trainings: steps = floor(epochs * rows / batch). Every other set gives as
    many rows per step, paired by `pairing`; sets named in `aligned` give the same rows as the anchor.

    Inside an effective batch rows are sorted by length before they are cut into micro-batches, which changes no
    number, because means are taken over the effective batch, and saves padding.

    Args:
        sets: Encoded rows per set; the first set is the anchor.
        pad_id: Id written into padding.
        epochs: Passes over the anchor, or None where `steps` is given.
        steps: Optimiser steps, or None.
        batch_size: Anchor rows per optimiser step over all processes.
        device_batch_size: At most this many anchor rows in a micro-batch.
        world_size: Processes.
        seed: Seed of all permutations.
        pairing: How rows of the other sets are chosen.
        normalize: 'batch' for means over the effective batch, 'microbatch' for averaged micro-batch means.
        aligned: Sets whose row i belongs to the anchor's row i.
        order: 'permutation', or 'file' for the anchor's rows in the order in which they are given, pass after pass.
        by_topic: Whether each batch holds anchor rows of one topic; batch i then belongs to topic i mod K, and each
            topic's rows come in passes of their own.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[Encoded]],
        *,
        pad_id: int,
        epochs: float | None,
        steps: int | None,
        batch_size: int,
        device_batch_size: int,
        world_size: int = 1,
        seed: int = 0,
        pairing: Pairing = "permutation",
        normalize: Literal["batch", "microbatch"] = "batch",
        aligned: Sequence[str] = (),
        order: Literal["permutation", "file"] = "permutation",
        by_topic: bool = False,
    ) -> None:
        self.sets, self.pad_id, self.seed, self.pairing = dict(sets), pad_id, seed, pairing
        self.anchor = next(iter(self.sets))
        self.normalize, self.aligned, self.order = normalize, set(aligned), order
        self._topics = _by_topic(self.sets[self.anchor]) if by_topic else {"": range(len(self.sets[self.anchor]))}
        self.num_rows = len(self.sets[self.anchor])
        self.batch_size = batch_size
        if batch_size < world_size:
            raise UserError(
                f"a batch of {batch_size} rows cannot be shared by {world_size} processes.",
                fix="Raise batch_size or start fewer processes.",
            )
        self.world_size = world_size
        self.accumulation = math.ceil(batch_size / (world_size * device_batch_size))
        if self.accumulation * world_size > batch_size:
            raise UserError(
                f"a batch of {batch_size} rows cannot be shared by {world_size} processes at one row each: some would "
                "have nothing to do.",
                fix=f"Set device_batch_size to 2 or more, or batch_size to a multiple of {world_size}.",
            )
        self.steps = steps or max(1, math.floor(round((epochs or 0) * self.num_rows / batch_size, 6)))

    def __len__(self) -> int:
        """Micro-batches of all steps and processes."""
        return self.steps * self.accumulation * self.world_size

    @property
    def topics(self) -> tuple[str, ...]:
        """The anchor's topics in the order in which they take turns."""
        return tuple(self._topics)

    def epoch_of(self, step: int) -> float:
        """Passes over the anchor after `step` optimiser steps."""
        return step * self.batch_size / self.num_rows

    def warmup_steps(self, config: Train, title: str = "train") -> int:
        """Optimiser steps of warm-up; the default is cut at the training's end.

        Raises:
            IncompatibleError: Warm-up was set, and the training does not outlast it.
        """
        steps = config.warmup_steps
        if steps is None:
            steps = int(round(config.warmup_epochs * self.num_rows / self.batch_size, 6))
        name = config.warmup_setting
        if name and steps >= self.steps:
            raise IncompatibleError(
                f"{title}: {name}: {getattr(config, name):g} is {steps} steps of warm-up, and the training has "
                f"{self.steps}, so the learning rate would never arrive.",
                fix=f"Set a smaller {name}, or train for longer.",
            )
        return min(self.steps, steps)

    def epoch_ends(self) -> list[int]:
        """Steps after which a pass over the anchor is complete, and the last step."""
        passes = max(1, round(self.epoch_of(self.steps)))
        ends = {min(self.steps, max(1, round(k * self.num_rows / self.batch_size))) for k in range(1, passes + 1)}
        return sorted(ends | {self.steps})

    def rows_of(self, step: int) -> dict[str, list[int]]:
        """Row indices of one effective batch (0-based step), per set, in the order that they are split."""
        turn, which = divmod(step, len(self.topics))
        topic, members = self.topics[which], self._topics[self.topics[which]]
        tag = self.anchor + topic
        chosen = [self._place(tag, len(members), place, self.order) for place in self._places(turn)]
        anchor = [members[place] for place in chosen]
        rows = {self.anchor: anchor}
        for name, encoded in self.sets.items():
            if name in self.aligned:
                rows[name] = anchor
            elif name != self.anchor and self.pairing == "modulo":
                rows[name] = [place % len(encoded) for place in chosen]
            elif name != self.anchor:
                rows[name] = [self._place(name, len(encoded), place, self.pairing) for place in self._places(step)]
        if self.normalize == "batch":
            order = np.argsort([-len(self.sets[self.anchor][row].ids) for row in anchor], kind="stable")
            for name, indices in rows.items():
                if name == self.anchor or name in self.aligned:
                    rows[name] = [indices[i] for i in order]
                else:
                    rows[name] = sorted(indices, key=lambda row: -len(self.sets[name][row].ids))
        return rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Micro-batch `index`: process index % world_size of accumulation round (index // world_size)."""
        step, part = divmod(index, self.accumulation * self.world_size)
        batches, counts, rows = {}, {}, {}
        for name, indices in self.rows_of(step).items():
            parts = np.array_split(np.asarray(indices), self.accumulation * self.world_size)
            # Process p takes parts p, p + world, ...: shapes of one accumulation round are then alike.
            mine = parts[part].tolist()
            encoded = [self.sets[name][row] for row in mine]
            batches[name] = collate(encoded, self.pad_id)
            counts[name] = self._counts(name, indices, mine)
            rows[name] = np.asarray(mine)
        return {"batches": batches, "counts": counts, "rows": rows, "topic": self.topics[step % len(self.topics)]}

    def visits(self) -> dict[str, dict[int, int]]:
        """How often each row comes, by set, over all steps and processes; rows that never come are left out."""
        counts = {name: collections.Counter[int]() for name in self.sets}
        for step in range(self.steps):
            for name, rows in self.rows_of(step).items():
                counts[name].update(rows)
        return {name: dict(count) for name, count in counts.items()}

    def whole(self, name: str, step: int) -> TokenBatch:
        """All rows of a set in one effective batch."""
        return collate([self.sets[name][row] for row in self.rows_of(step)[name]], self.pad_id)

    def _counts(self, name: str, everything: Sequence[int], mine: Sequence[int]) -> Counts:
        if self.normalize == "batch":
            return Counts(rows=len(everything), tokens=sum(self.sets[name][row].num_answer for row in everything))
        share = self.accumulation * self.world_size
        return Counts(rows=len(mine) * share, tokens=sum(self.sets[name][row].num_answer for row in mine) * share)

    def _places(self, step: int) -> range:
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def _place(self, tag: str, size: int, place: int, order: str) -> int:
        """Which of `size` rows stands at a place of an endless sequence."""
        if order == "random":
            return int(np.random.default_rng([self.seed, _tag(tag), place]).integers(size))
        turn, offset = divmod(place, size)
        return offset if order == "file" else int(self._permutation(tag, size, turn)[offset])

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as the training
    def _permutation(self, tag: str, size: int, turn: int) -> Any:
        return np.random.default_rng([self.seed, _tag(tag), turn]).permutation(size)


def _by_topic(rows: Sequence[Encoded]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.topic, []).append(index)
    return members


def _tag(name: str) -> int:
    return zlib.crc32(name.encode())
