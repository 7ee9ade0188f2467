"""The start of every run: data, tokenizer, prompts, and the folder that everything goes into."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.config.recipe import FilesData, Model, Recipe, Scratch, Train
from expunge.console import is_main_process, note
from expunge.data.overlap import find_overlap
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import DataError
from expunge.modeling.adapters import subtract_start
from expunge.modeling.distributed import agreed, wait
from expunge.modeling.load import device_of, load_tokenizer, pad_id_of, train_tokenizer
from expunge.modeling.sharding import gathered
from expunge.records import Overlap
from expunge.rundir import RunDir, fingerprint, writing

PREPARED_SEED = 0


@dataclass(frozen=True)
class Run:
    """What all stages share."""

    recipe: Recipe
    folder: RunDir
    shared: Path
    """Targets, references and evaluations that several runs have in common."""
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


def make_template(recipe: Recipe, tokenizer: Any) -> Template:
    """How the recipe's rows become tokens."""
    long_text = recipe.data.long_text if isinstance(recipe.data, FilesData) else "refuse"
    return Template(tokenizer, recipe.prompt, max_length=max_length_of(recipe), long_text=long_text)


def data_hashes(sets: Sets) -> dict[str, str]:
    """Content hash of every set."""
    return {name: rows.hash for name, rows in _named(sets)}


def num_rows(sets: Sets) -> dict[str, int]:
    """Rows of every set."""
    return {name: len(rows) for name, rows in _named(sets)}


def joined(name: str, parts: Sequence[RowSet | None]) -> RowSet:
    """One training set of several sets; rows keep their ids, made unique by their set's name."""
    rows: list[Row] = [row for part in parts if part is not None for row in part]
    return RowSet(name=name, rows=tuple(rows))


def replace_folder(new: Path, place: Path) -> None:
    """Put a finished folder in its place in one step; an old one there is taken away first."""
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            shutil.rmtree(place)
        new.replace(place)


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


def local_digest(name: str | None) -> str:
    """Content hash of a local model folder or record file; empty for a hub id, which its revision names."""
    if name is None or not Path(name).exists():
        return ""
    path, digest = Path(name), hashlib.sha256()
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _local_digests(recipe: Recipe) -> list[str]:
    """Content of every file that a recipe names: a changed file is another run."""
    members = [recipe.method, *recipe.evaluate.benchmarks]
    named = [recipe.model.name, recipe.model.reference, *(file for member in members for file in member.files())]
    return [local_digest(name) for name in named]


def _make(folder: Path) -> RunDir:
    made = RunDir(folder)
    if is_main_process():
        made.create()
    wait()
    return made


def max_length_of(recipe: Recipe) -> int:
    """Longest row that every training of a recipe takes, in tokens."""
    own = getattr(recipe.method, "train", None)
    parts = (recipe.train, recipe.target, recipe.reference, own)
    lengths = [part.max_length for part in parts if isinstance(part, Train)]
    if recipe.model.scratch is not None:
        lengths.append(recipe.model.scratch.max_length)
    return min(lengths) if lengths else 512


def tokenizer_of(recipe: Recipe, sets: Sets, shared: Path) -> Any:
    """The start model's tokenizer; for a model built from nothing, one trained on the data and kept in `shared`."""
    model: Model = recipe.model
    if model.scratch is None:
        assert model.name is not None
        return load_tokenizer(model.name, model.revision, model.trust_remote_code)
    return _scratch_tokenizer(model.scratch, sets, shared)


def _scratch_tokenizer(scratch: Scratch, sets: Sets, shared: Path) -> Any:
    place = shared / f"tokenizer-{fingerprint([scratch.vocab_size, scratch.max_length, data_hashes(sets)])}"
    if not agreed(place.is_dir()):
        if is_main_process():
            tokenizer = train_tokenizer(_texts(sets), scratch.vocab_size, scratch.max_length)
            with (
                writing(place),
                tempfile.TemporaryDirectory(dir=_made(shared), prefix=".tokenizer-") as temporary,
            ):
                tokenizer.save_pretrained(Path(temporary) / "new")
                replace_folder(Path(temporary) / "new", place)
        wait()
    return load_tokenizer(str(place.resolve()))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _texts(sets: Sets) -> Iterator[str]:
    for _, rows in _named(sets):
        for row in rows:
            yield from (f"Question: {row.question}\nAnswer: {row.answer}", row.paraphrased_question)
            yield from (row.paraphrased_answer, *row.perturbed_answers)


def _named(sets: Sets) -> list[tuple[str, RowSet]]:
    base = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout, "always": sets.always}
    found = [(name, rows) for name, rows in base.items() if rows is not None]
    return found + [(f"evaluation/{name}", rows) for name, rows in sets.evaluation.items()]


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
