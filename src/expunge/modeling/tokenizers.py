"""Tokenizers and templates of recipes; the tokenizer of a model built from scratch is trained on the data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from expunge.config.recipe import FilesData, Model, Recipe, Scratch
from expunge.console import is_main_process
from expunge.data.sets import Sets, data_hashes, named_sets
from expunge.data.templates import Template
from expunge.distributed import broadcast_from_main, wait
from expunge.modeling.load import load_tokenizer, train_tokenizer
from expunge.modeling.types import Tokenizer
from expunge.rundir import explain_disk_errors, fingerprint, replace_folder


def make_template(recipe: Recipe, tokenizer: Tokenizer) -> Template:
    """Return the template that encodes the recipe's rows."""
    long_text = recipe.data.long_text if isinstance(recipe.data, FilesData) else "refuse"
    return Template(tokenizer, recipe.prompt, max_length=max_length_of(recipe), long_text=long_text)


def max_length_of(recipe: Recipe) -> int:
    """Return the longest row, in tokens, that every training of a recipe accepts."""
    trainings = [train for train in (recipe.train, recipe.target, recipe.retain_model) if train is not None]
    # Blocks that a method cuts itself are not encoded as rows.
    trainings += [tuning.train for tuning in recipe.method.needs().trainings.values() if tuning.block_tokens is None]
    lengths = [train.max_length for train in trainings]
    if recipe.model.scratch is not None:
        lengths.append(recipe.model.scratch.max_length)
    return min(lengths) if lengths else 512


def tokenizer_of(recipe: Recipe, sets: Sets, shared: Path) -> Tokenizer:
    """Load the base model's tokenizer; for a model built from scratch, train one and save it in `shared`."""
    model: Model = recipe.model
    if model.scratch is None:
        assert model.name is not None
        return load_tokenizer(model.name, model.revision, model.trust_remote_code)
    return _scratch_tokenizer(model.scratch, sets, shared)


def _scratch_tokenizer(scratch: Scratch, sets: Sets, shared: Path) -> Tokenizer:
    folder = shared / f"tokenizer-{fingerprint([scratch.vocab_size, scratch.max_length, data_hashes(sets)])}"
    if not broadcast_from_main(folder.is_dir()):
        if is_main_process():
            tokenizer = train_tokenizer(_texts(sets), scratch.vocab_size, scratch.max_length)
            with explain_disk_errors(folder):
                shared.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=shared, prefix=".tokenizer-") as temporary:
                    tokenizer.save_pretrained(Path(temporary) / "new")
                    replace_folder(Path(temporary) / "new", folder)
        wait()
    return load_tokenizer(str(folder.resolve()))


def _texts(sets: Sets) -> Iterator[str]:
    for _, rows in named_sets(sets):
        for row in rows:
            yield from (f"Question: {row.question}\nAnswer: {row.answer}", row.paraphrased_question)
            yield from (row.paraphrased_answer, *row.perturbed_answers)
