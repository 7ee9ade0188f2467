"""Rows, micro-batches and stored bytes of a recipe's trainings: from local data where possible, else estimated."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.config.recipe import FilesData, Recipe, TofuData, Train
from expunge.data.prepare import is_local, prepare_sets
from expunge.data.templates import Encoded
from expunge.data.tofu import split_sizes
from expunge.methods.base import Needs
from expunge.modeling.gguf import as_folder
from expunge.modeling.hidden.row_store import store_bytes
from expunge.modeling.tokenizers import make_template, max_length_of, tokenizer_of
from expunge.planning.shape import MicroBatch, Shape, micro_batch
from expunge.records import Record
from expunge.training.batching import BatchPlan

Rows = dict[str, list[Encoded]]
"""Encoded rows by set."""
_SAMPLED_STEPS = 40
"""Optimiser steps whose micro-batches are counted; later ones have the same distribution."""
_CHARACTERS_PER_TOKEN = 4
_CHAT_TOKENS = 45
"""Tokens of a chat template with a system message and a date."""
_TOFU_CHARACTERS = (49, 134, 168, 196, 217, 236, 257, 278, 303, 335, 499)
"""Deciles of the characters in TOFU's rows, question and answer together; 0.3 of them are the question's."""


class Workload(Record):
    """Micro-batches of one training."""

    widest: MicroBatch
    """The micro-batch with the most positions."""
    positions_per_step: float
    """Mean over optimiser steps, for all micro-batches and processes together."""
    answers_per_step: float
    mean_width: float
    """Columns of the rows that the model is run on."""
    accumulation: int
    steps: int | None
    """None if the number of rows is unknown."""
    num_scored: int
    """Tokens of the forget set, for scores that are computed once."""
    stored_bytes: int
    """Most CPU memory for stored hidden states (`Forward.stored`)."""
    file_bytes: int | None
    """Disk space, per process, for hidden states of the reference; None if the number of rows is unknown."""


@dataclass(frozen=True)
class PlanRows:
    """The rows that a plan is made for, by set: read from the data, or placeholders of a likely length."""

    sets: Rows
    counted: bool
    """Whether the number of rows is that of the data."""
    source: str
    """Where the rows are from, for the plan's assumptions."""


def plan_rows(recipe: Recipe) -> PlanRows:
    """Return the rows of a recipe, encoded if tokenizer and data are local, otherwise of estimated length.

    Raises:
        DataError: Local data cannot be used.
    """
    max_length = max_length_of(recipe)

    def estimated_row(question: int, answer: int, topic: str = "") -> Encoded:
        """Return a placeholder for a row of so many characters."""
        template = _CHAT_TOKENS if question and recipe.prompt.style == "chat" else 3
        start = template + question // _CHARACTERS_PER_TOKEN
        length = min(start + answer // _CHARACTERS_PER_TOKEN + 2, max_length)
        return Encoded((0,) * length, min(start, length - 1), topic=topic)

    if is_local(recipe):
        sets = prepare_sets(recipe.data)
        named = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout, "always": sets.always}
        row_sets = {name: rows for name, rows in named.items() if rows is not None}
        if recipe.model.scratch is not None or Path(as_folder(str(recipe.model.name))).is_dir():
            with tempfile.TemporaryDirectory() as folder:
                template = make_template(recipe, tokenizer_of(recipe, sets, Path(folder)))
            return PlanRows(
                {name: template.encode_set(rows) for name, rows in row_sets.items()}, True, "rows of the data"
            )
        estimated = {
            name: [estimated_row(len(row.question), len(row.answer), row.topic) for row in rows]
            for name, rows in row_sets.items()
        }
        return PlanRows(estimated, True, f"rows of the data, at {_CHARACTERS_PER_TOKEN} characters per token")
    if isinstance(recipe.data, TofuData):
        typical = [estimated_row(round(0.3 * count), round(0.7 * count)) for count in _TOFU_CHARACTERS]
        estimated = {
            name: [typical[index % len(typical)] for index in range(count)]
            for name, count in split_sizes(recipe.data).items()
        }
        return PlanRows(estimated, True, f"rows as long as TOFU's, at {_CHARACTERS_PER_TOKEN} characters per token")
    assert isinstance(recipe.data, FilesData)
    longest = [Encoded((0,) * max_length, 1)] * 64
    return PlanRows({"forget": longest, "retain": longest}, False, f"rows of {max_length} tokens, the longest allowed")


def training_rows(recipe: Recipe, section: str, rows: PlanRows) -> Rows:
    """Return the sets in the micro-batches of one training.

    Sets that the method creates itself are assumed to be as long as the forget set.
    """
    forget = rows.sets["forget"]
    retain = [*rows.sets.get("retain", []), *rows.sets.get("always", [])]
    if section == "target":
        return {"train": [*forget, *retain]}
    if section == "retain_model":
        return {"train": retain}
    needs = recipe.method.needs()
    if section == "train":
        return {name: rows.sets.get(name) or forget for name in needs.sets}
    block = needs.trainings[section.removeprefix("method.")].block_tokens
    if block is None:
        return {"train": forget}
    num_blocks = max(1, sum(len(row.ids) for row in forget) // block)
    return {"train": [Encoded((0,) * block, 1)] * num_blocks}


def workload(
    recipe: Recipe, section: str, train: Train, rows: Rows, shape: Shape, *, counted: bool = True, num_gpus: int = 1
) -> Workload:
    """Return the micro-batches of a training, without running anything.

    Args:
        recipe: The recipe.
        section: Name of the training, such as 'train' (see `Planner.sections`).
        train: Its settings.
        rows: Its rows by set.
        shape: Counts of the model.
        counted: Whether the number of rows is that of the data.
        num_gpus: Processes that share each batch.

    Raises:
        UserError: The batch cannot be shared by so many GPUs.
    """
    unlearning = section == "train"
    needs = recipe.method.needs() if unlearning else Needs()
    forward = needs.forward
    if train.learn_padding:
        rows = {
            name: [replace(row, ids=row.ids + (0,) * (train.max_length - len(row.ids)), labels=None) for row in encoded]
            for name, encoded in rows.items()
        }
    plan = BatchPlan.of(train, rows, needs, pad_id=0, world_size=num_gpus, seed=recipe.seed)
    count = plan.accumulation * plan.world_size
    batches = []
    for step in range(min(plan.steps, _SAMPLED_STEPS)):
        chosen = plan.rows_of(step)
        for index in range(count):
            parts: Rows = {}
            for name, indices in chosen.items():
                # Cut as `BatchPlan` does: the first micro-batches have one row more.
                size, longer = divmod(len(indices), count)
                start = index * size + min(index, longer)
                parts[name] = [rows[name][row] for row in indices[start : start + size + (index < longer)]]
            batches.append(micro_batch(parts, shape.hidden, joint=forward.joint, packed=not forward.padded))
    compared = () if isinstance(needs.reference, bool) or shape.trained == "adapter" else needs.reference
    visits = plan.visits() if forward.stored or compared else {}
    stored_bytes = 0
    if forward.stored and num_gpus == 1:
        stored_bytes = store_bytes(
            {name: [len(row.ids) for row in encoded] for name, encoded in rows.items()},
            map(plan.rows_of, range(plan.steps)),
            {name: counts for name, counts in visits.items() if name in forward.stored},
            hidden_size=shape.hidden,
            first=shape.first,
            num_bytes=forward.store_bytes,
            padding=forward.padded,
            compared=forward.compared,
        )
    # Of rows that are compared with the reference, its float32 hidden states at answer tokens are in a file.
    num_compared = sum(rows[name][row].num_answer for name in compared for row in visits[name])
    return Workload(
        widest=max(batches, key=lambda batch: batch.positions),
        positions_per_step=statistics.fmean(batch.positions for batch in batches) * count,
        answers_per_step=statistics.fmean(sum(batch.answers) for batch in batches) * count,
        mean_width=statistics.fmean(batch.width for batch in batches),
        accumulation=plan.accumulation,
        steps=plan.steps if counted or train.steps is not None else None,
        num_scored=sum(len(row.ids) for row in rows.get("forget", [])),
        stored_bytes=stored_bytes,
        file_bytes=None if unlearning and not counted else 4 * shape.hidden * num_compared,
    )
