"""The context of a run: data, tokenizer, template and folder, which all stages share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.config.recipe import Recipe
from expunge.console import is_main_process, note
from expunge.data.duplicates import find_overlap
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Sets, data_hashes
from expunge.data.templates import Template
from expunge.distributed import wait
from expunge.errors import DataError
from expunge.modeling.adapters import prepare_training
from expunge.modeling.architectures import meta_model
from expunge.modeling.load import device_of, local_digest, pad_id_of
from expunge.modeling.opening import check_same_tokens
from expunge.modeling.tokenizers import fix_date, make_template, tokenizer_of
from expunge.records import ROLE_NAMES, Overlap
from expunge.rundir import RunDir, fingerprint


@dataclass(frozen=True)
class Run:
    """Recipe, folder and services that all stages of a run share."""

    recipe: Recipe
    folder: RunDir
    shared: Path
    """Folder of targets, retain models and evaluations that several runs have in common."""
    sets: Sets
    tokenizer: Any
    template: Template
    device: torch.device
    model_config: Any
    """Transformers config of the base model, or of the model to build."""
    fingerprint: str
    overlap: Overlap | None
    """Forget rows that are also in the retain set; None where this was not checked."""

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return pad_id_of(self.tokenizer)

    @property
    def target_revision(self) -> str | None:
        """Revision of the target on the hub; None where the run fine-tunes its own target."""
        return self.recipe.model.revision if self.recipe.target is None else None


def prepare(recipe: Recipe, runs: Path) -> Run:
    """Load and check data, tokenizer and template, and create the run folder.

    Raises:
        DataError: The data is missing, empty, ambiguous, or too long for the model.
        IncompatibleError: The model cannot be trained, the method selects nothing to train, or the retain model reads
            other tokens.
    """
    model_config = _check_model(recipe)
    sets = prepare_sets(recipe.data)
    shared = runs / "shared"
    _create(runs)
    tokenizer = tokenizer_of(recipe, sets, shared)
    recipe = recipe.model_copy(update={"prompt": fix_date(make_template(recipe, tokenizer), shared)})
    template = make_template(recipe, tokenizer)
    retain_model, revision = recipe.model.retain_model, recipe.model.retain_model_revision
    if retain_model is not None and not retain_model.endswith(".json"):
        check_same_tokens(retain_model, ROLE_NAMES["retain"], recipe.model, template, revision)
    # The content of every file that the recipe names is part of the fingerprint: a changed file is another run.
    members = [recipe.method, *recipe.evaluate.benchmarks]
    paths = [recipe.model.name, recipe.model.retain_model, *(file for member in members for file in member.files())]
    paths += [name for name in recipe.evaluate.metrics if name.endswith(".py")]
    name = fingerprint(
        {
            "recipe": recipe.fingerprint(),
            "data": data_hashes(sets),
            "models": [local_digest(path) for path in paths],
        }
    )
    return Run(
        recipe=recipe,
        folder=_create(runs / f"{recipe.name}-{name}"),
        shared=shared,
        sets=sets,
        tokenizer=tokenizer,
        template=template,
        device=device_of(recipe.model),
        model_config=model_config,
        fingerprint=name,
        overlap=_check_overlap(sets, recipe.data.duplicates),
    )


def _check_model(recipe: Recipe) -> Any:
    """Return the base model's config, after checks that need its architecture but no weights."""
    model = meta_model(recipe.model)
    config = model.config
    if recipe.method.trains:
        prepare_training(model, recipe.model.lora, recipe.seed, recipe.method.trainable)
    return config


def _create(path: Path) -> RunDir:
    folder = RunDir(path)
    if is_main_process():
        folder.create()
    wait()
    return folder


def _check_overlap(sets: Sets, policy: str) -> Overlap | None:
    """Find forget rows in the retain set, and raise or warn as the recipe asks for."""
    if policy == "off" or sets.retain is None:
        return None
    overlap = find_overlap(sets.forget, sets.retain)
    if overlap.num_exact + overlap.num_near:
        counts = f"{overlap.num_exact} forget rows are in the retain set, {overlap.num_near} more nearly are"
        if policy == "refuse":
            raise DataError(f"{counts}.", fix="Remove them from the retain set, or set data.duplicates=report.")
        note(f"Warning: {counts}.")
    return overlap.model_copy(update={"examples": []}) if sets.sensitive else overlap
