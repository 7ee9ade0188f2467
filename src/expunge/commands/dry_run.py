"""Dry run: the resolved recipe, the derived batches and the memory estimate, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.checks.settings import check_settings
from expunge.config.load import load_recipe
from expunge.config.recipe import Recipe, TofuData, Train
from expunge.data.prepare import is_local, prepare_sets
from expunge.data.sets import num_rows
from expunge.data.templates import Encoded
from expunge.data.tofu import split_sizes
from expunge.distributed import world_size
from expunge.errors import DataError
from expunge.planning.memory import MemoryEstimate
from expunge.planning.planner import Planner
from expunge.records import Record
from expunge.training.batching import BatchPlan


class TrainingPlan(Record):
    """Derived settings of one training."""

    rows: int
    """Rows of the set that defines an epoch."""
    batch_size: int
    """Rows per optimiser step over all processes."""
    device_rows: int
    """Rows per micro-batch on a device."""
    accumulation: int
    """Micro-batches per optimiser step and process."""
    steps: int
    warmup_steps: int


class DryRun(Record):
    """Result of a dry run."""

    recipe: dict[str, Any]
    """Every setting with its value."""
    trainings: dict[str, TrainingPlan]
    """'target', 'retain_model' and 'train', where the recipe has them."""
    memory: dict[str, MemoryEstimate]
    """Per training."""
    notes: list[str]
    """Facts that could not be derived here, with the reason."""


def dry_run(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> DryRun:
    """Resolve a recipe and derive its batches, steps and memory from local data and the model's config.

    Args:
        recipe: A recipe, the name of a packaged one, or the path of a YAML file.
        overrides: Settings as 'key.path=value', on top of a named recipe or file.

    Raises:
        UserError: The recipe or its local data cannot be used; the message states what to change.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    check_settings(recipe).raise_failed()
    notes: list[str] = []
    sections = {name: getattr(recipe, name) for name in ("target", "retain_model", "train")}
    trainings = {name: train for name, train in sections.items() if train is not None}
    return DryRun(
        recipe=recipe.resolved(),
        trainings=_plans(recipe, trainings, notes),
        memory=_memory(recipe, trainings, notes),
        notes=notes,
    )


def _plans(recipe: Recipe, trainings: dict[str, Train], notes: list[str]) -> dict[str, TrainingPlan]:
    counts = _rows(recipe)
    if counts is None:
        notes.append("steps are not derived: the data is on the hub and its number of rows is not known")
        return {}
    forget, other = counts.get("forget", 0), counts.get("retain", 0) + counts.get("always", 0)
    rows = {"train": forget, "target": forget + other, "retain_model": other}
    return {name: _plan(name, train, rows[name]) for name, train in trainings.items()}


def _plan(section: str, train: Train, rows: int) -> TrainingPlan:
    encoded = [Encoded((0,), 0)] * rows
    plan = BatchPlan.of(train, {"rows": encoded}, None, pad_id=0, world_size=world_size(), seed=0)
    return TrainingPlan(
        rows=rows,
        batch_size=train.batch_size,
        device_rows=-(-train.batch_size // (plan.accumulation * plan.world_size)),
        accumulation=plan.accumulation,
        steps=plan.steps,
        warmup_steps=plan.warmup_steps(train, section),
    )


def _rows(recipe: Recipe) -> dict[str, int] | None:
    if is_local(recipe):
        return num_rows(prepare_sets(recipe.data))
    if not isinstance(recipe.data, TofuData):
        return None
    return split_sizes(recipe.data)


def _memory(recipe: Recipe, trainings: dict[str, Train], notes: list[str]) -> dict[str, MemoryEstimate]:
    try:
        planner = Planner(recipe)
    except DataError as error:
        notes.append(f"memory is not estimated: {error}")
        return {}
    return {name: planner.case(name, num_gpus=world_size()).memory for name in trainings}
