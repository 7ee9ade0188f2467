"""The start of every run: data, tokenizer, prompts, and the folder that everything goes into."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.config.recipe import Recipe
from expunge.console import is_main_process, note
from expunge.data.duplicates import find_overlap
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Row, RowSet, Sets, data_hashes
from expunge.data.templates import Template
from expunge.distributed import wait
from expunge.errors import DataError
from expunge.modeling.adapters import subtract_start
from expunge.modeling.fsdp import gathered
from expunge.modeling.load import device_of, local_digest, pad_id_of
from expunge.modeling.tokenizers import make_template, tokenizer_of
from expunge.records import Overlap
from expunge.rundir import RunDir, fingerprint, replace_folder, writing

PREPARED_SEED = 0


@dataclass(frozen=True)
class Run:
    """What all stages share."""

    recipe: Recipe
    folder: RunDir
    shared: Path
    """Targets, retain models and evaluations that several runs have in common."""
    sets: Sets
    tokenizer: Any
    template: Template
    device: torch.device
    fingerprint: str
    overlap: Overlap | None

    @property
    def pad_id(self) -> int:
        """Id written into padding."""
        return pad_id_of(self.tokenizer)


def prepare(recipe: Recipe, runs: Path) -> Run:
    """Load and check the data, the tokenizer and the prompts; make the run folder.

    Raises:
        DataError: The data cannot be used: missing, empty, not to be told apart, or too long for the model.
    """
    sets = prepare_sets(recipe.data)
    shared = runs / "shared"
    _make(runs)
    tokenizer = tokenizer_of(recipe, sets, shared)
    template = make_template(recipe, tokenizer)
    name = fingerprint({"recipe": recipe.fingerprint(), "data": data_hashes(sets), "models": _local_digests(recipe)})
    folder = _make(runs / f"{recipe.name}-{name}")
    overlap = _overlap(sets, recipe.data.duplicates)
    if overlap is not None and sets.sensitive:
        overlap = overlap.model_copy(update={"examples": []})
    return Run(
        recipe=recipe,
        folder=folder,
        shared=shared,
        sets=sets,
        tokenizer=tokenizer,
        template=template,
        device=device_of(recipe.model),
        fingerprint=name,
        overlap=overlap,
    )


def joined(name: str, parts: Sequence[RowSet | None]) -> RowSet:
    """One training set of several sets; rows keep their ids, made unique by their set's name."""
    rows: list[Row] = [row for part in parts if part is not None for row in part]
    return RowSet(name=name, rows=tuple(rows))


def save_model(
    model: Any, tokenizer: Any, place: Path, adapter_start: Path | None = None, *, merged: bool = False
) -> None:
    """Write weights (safetensors) and tokenizer so that the folder is either whole or absent; every process takes part.

    Args:
        model: The model, or one with an adapter, of which the adapter alone is written.
        tokenizer: Its tokenizer.
        place: The folder.
        adapter_start: What the adapter began with, where these were parts of the weights; it is then written as one
            of the weights as they were.
        merged: Put an adapter into the weights first, and write these.
    """
    adapted = hasattr(model, "merge_and_unload")
    model = gathered(model, trained_only=adapted and not merged)
    if is_main_process():
        if adapted and merged:
            model = model.merge_and_unload()
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as scratch:
                new = Path(scratch) / place.name
                model.save_pretrained(new, safe_serialization=True)
                if adapter_start is not None:
                    subtract_start(new, adapter_start)
                tokenizer.save_pretrained(new)
                replace_folder(new, place)
    wait()


def _local_digests(recipe: Recipe) -> list[str]:
    """Content of every file that a recipe names: a changed file is another run."""
    members = [recipe.method, *recipe.evaluate.benchmarks]
    named = [recipe.model.name, recipe.model.retain_model, *(file for member in members for file in member.files())]
    named += [name for name in recipe.evaluate.metrics if name.endswith(".py")]
    return [local_digest(name) for name in named]


def _make(folder: Path) -> RunDir:
    made = RunDir(folder)
    if is_main_process():
        made.create()
    wait()
    return made


def _overlap(sets: Sets, policy: str) -> Overlap | None:
    if policy == "off" or sets.retain is None:
        return None
    overlap = find_overlap(sets.forget, sets.retain)
    total = overlap.num_exact + overlap.num_near
    if total and policy == "refuse":
        raise DataError(
            f"{overlap.num_exact} forget rows stand in the retain set and {overlap.num_near} nearly do.",
            fix="Remove them from the retain set, or set data.duplicates=report.",
        )
    if total:
        note(f"Warning: {overlap.num_exact} forget rows stand in the retain set, {overlap.num_near} more nearly do.")
    return overlap
