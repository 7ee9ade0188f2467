"""What the trainings of a recipe have in hand at a time and per step: from its rows where they can be read here."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.config.recipe import FilesData, Recipe, TofuData, Train
from expunge.data.prepare import is_local, prepare_sets
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import Encoded
from expunge.data.tofu import NUM_ROWS
from expunge.methods.base import Forward, Needs
from expunge.modeling.hidden.row_store import store_bytes
from expunge.modeling.tokenizers import make_template, max_length_of, tokenizer_of
from expunge.planning.shape import MicroBatch, Shape, micro_batch
from expunge.records import Record
from expunge.training.batching import BatchPlan

Rows = dict[str, list[Encoded]]
_LOOKED_AT = 40
"""Optimiser steps whose micro-batches are looked at; later ones are alike."""
_CHARACTERS_PER_TOKEN = 4
_CHAT_TOKENS = 45
"""Of a chat template with a system message and a date."""
_TOFU_CHARACTERS = (49, 134, 168, 196, 217, 236, 257, 278, 303, 335, 499)
"""Question and answer together, at every tenth of TOFU's rows; 0.3 of it is the question."""


class Workload(Record):
    """One training as its devices see it."""

    widest: MicroBatch
    """The micro-batch with the most positions."""
    positions_per_step: float
    """Mean over all micro-batches and processes of an optimiser step."""
    answers_per_step: float
    mean_width: float
    """Columns of the rows that the model is run on."""
    accumulation: int
    steps: int | None
    """None where the number of rows is not known."""
    num_scored: int
    """Tokens of the forget set, for scores that are computed once."""
    stored_bytes: int
    """Main memory for hidden states of rows that come again (`method.store_gib`), at most."""
    file_bytes: int | None
    """On disk, per process, for hidden states of the start model; None where the number of rows is not known."""


@dataclass(frozen=True)
class Material:
    """The rows of all sets, or what stands for them."""

    sets: Rows
    counted: bool
    """Whether there are as many rows as the data has."""
    how: str


def material(recipe: Recipe) -> Material:
    """The rows that a recipe trains on: read and encoded, or, where tokenizer or data are on the hub, assumed.

    Raises:
        DataError: Local data cannot be used.
    """
    local_tokenizer = recipe.model.scratch is not None or Path(str(recipe.model.name)).is_dir()
    if is_local(recipe):
        sets = prepare_sets(recipe.data)
        if local_tokenizer:
            return Material(_encoded(recipe, sets), True, "rows as they are")
        how = f"rows as they are, at {_CHARACTERS_PER_TOKEN} characters a token"
        return Material({name: _guessed(recipe, rows) for name, rows in _parts(sets).items()}, True, how)
    if isinstance(recipe.data, TofuData):
        num_forget = NUM_ROWS * int(recipe.data.split.removeprefix("forget")) // 100
        kinds = {"forget": num_forget, "retain": NUM_ROWS - num_forget}
        made = {name: _tofu_like(recipe, number) for name, number in kinds.items()}
        how = f"rows as long as TOFU's, at {_CHARACTERS_PER_TOKEN} characters a token"
        return Material(made, True, how)
    length = max_length_of(recipe)
    assert isinstance(recipe.data, FilesData)
    whole = [Encoded((0,) * length, 1)] * 64
    return Material({"forget": whole, "retain": whole}, False, f"rows of {length} tokens, the most there can be")


def training_rows(recipe: Recipe, section: str, found: Material) -> Rows:
    """The sets that go into the micro-batches of one training.

    What the method makes itself is taken to be as long as the forget set.
    """
    kept = [*found.sets.get("retain", []), *found.sets.get("always", [])]
    if section == "target":
        return {"train": [*found.sets["forget"], *kept]}
    if section == "retain_model":
        return {"train": kept}
    needs = recipe.method.needs()
    if section != "train":
        block = needs.trainings[section.removeprefix("method.")].block_tokens
        num_tokens = sum(len(row.ids) for row in found.sets["forget"])
        blocks = [Encoded((0,) * block, 1)] * max(1, num_tokens // block) if block else found.sets["forget"]
        return {"train": blocks}
    return {name: found.sets.get(name) or found.sets["forget"] for name in needs.sets}


def workload(
    recipe: Recipe, section: str, train: Train, rows: Rows, shape: Shape, *, counted: bool = True, num_gpus: int = 1
) -> Workload:
    """Cut a training into micro-batches, without running anything.

    Raises:
        UserError: The batch cannot be shared by so many GPUs.
    """
    unlearning = section == "train"
    needs = recipe.method.needs() if unlearning else Needs()
    plan = BatchPlan(
        rows,
        pad_id=0,
        epochs=train.epochs,
        steps=train.steps,
        batch_size=train.batch_size,
        device_batch_size=train.device_batch_size,
        world_size=num_gpus,
        seed=recipe.seed,
        pairing=train.retain_pairing,
        normalize=train.normalize,
        aligned=needs.aligned,
        order=train.order,
        by_topic=needs.by_topic,
    )
    count = plan.accumulation * plan.world_size
    batches = []
    for step in range(min(plan.steps, _LOOKED_AT)):
        chosen = plan.rows_of(step)
        for part in range(count):
            batches.append(
                micro_batch(
                    {name: _part(rows[name], indices, part, count) for name, indices in chosen.items()},
                    shape.hidden,
                    joint=needs.forward.joint,
                    packed=not needs.forward.padded,
                )
            )
    return Workload(
        widest=max(batches, key=lambda batch: batch.positions),
        positions_per_step=statistics.fmean(batch.positions for batch in batches) * count,
        answers_per_step=statistics.fmean(sum(batch.answers) for batch in batches) * count,
        mean_width=statistics.fmean(batch.width for batch in batches),
        accumulation=plan.accumulation,
        steps=plan.steps if counted or train.steps is not None else None,
        num_scored=sum(len(row.ids) for row in rows.get("forget", [])),
        stored_bytes=_stored(needs.forward, plan, rows, shape) if num_gpus == 1 else 0,
        file_bytes=_filed(recipe, plan, rows, shape) if unlearning and counted else None if unlearning else 0,
    )


def _stored(forward: Forward, plan: BatchPlan, rows: Rows, shape: Shape) -> int:
    if not forward.stored:
        return 0
    visits = {name: counts for name, counts in plan.visits().items() if name in forward.stored}
    return store_bytes(
        {name: [len(row.ids) for row in found] for name, found in rows.items()},
        map(plan.rows_of, range(plan.steps)),
        visits,
        hidden_size=shape.hidden,
        first=shape.first,
        num_bytes=forward.store_bytes,
        padding=forward.padded,
        compared=forward.compared,
    )


def _filed(recipe: Recipe, plan: BatchPlan, rows: Rows, shape: Shape) -> int:
    """4 bytes x width x answer tokens of the rows that are compared with the start model."""
    compared = recipe.method.needs().reference
    if isinstance(compared, bool) or not compared or shape.trained == "adapter":
        return 0
    visits = plan.visits()
    return 4 * shape.hidden * sum(rows[name][row].num_answer for name in compared for row in visits[name])


def _part(rows: Sequence[Encoded], indices: Sequence[int], part: int, count: int) -> list[Encoded]:
    """The rows of one micro-batch, cut as `BatchPlan` cuts them: the first ones are one longer."""
    size, longer = divmod(len(indices), count)
    start = part * size + min(part, longer)
    return [rows[index] for index in indices[start : start + size + (part < longer)]]


def _parts(sets: Sets) -> Mapping[str, RowSet]:
    named = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout, "always": sets.always}
    return {name: rows for name, rows in named.items() if rows is not None}


def _encoded(recipe: Recipe, sets: Sets) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        template = make_template(recipe, tokenizer_of(recipe, sets, Path(folder)))
    return {name: template.encode_set(rows) for name, rows in _parts(sets).items()}


def _guessed(recipe: Recipe, rows: RowSet) -> list[Encoded]:
    return [_like(recipe, len(row.question), len(row.answer), row) for row in rows]


def _tofu_like(recipe: Recipe, number: int) -> list[Encoded]:
    found = []
    for index in range(number):
        characters = _TOFU_CHARACTERS[index % len(_TOFU_CHARACTERS)]
        found.append(_like(recipe, round(0.3 * characters), round(0.7 * characters)))
    return found


def _like(recipe: Recipe, question: int, answer: int, row: Row | None = None) -> Encoded:
    """A row of as many tokens as so many characters are likely to make."""
    around = _CHAT_TOKENS if question and recipe.prompt.style == "chat" else 3
    start = around + question // _CHARACTERS_PER_TOKEN
    length = min(start + answer // _CHARACTERS_PER_TOKEN + 2, max_length_of(recipe))
    return Encoded((0,) * length, min(start, length - 1), topic=row.topic if row else "")
