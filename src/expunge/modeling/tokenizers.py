"""Tokenizers and templates of recipes; the tokenizer of a model built from scratch is trained on the data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from expunge.config.recipe import FilesData, Model, Prompt, Recipe, Scratch
from expunge.console import is_main_process, note
from expunge.data.sets import Sets, data_hashes, named_sets
from expunge.data.templates import Template
from expunge.distributed import broadcast_from_main, wait
from expunge.locking import locked
from expunge.modeling.load import load_tokenizer, train_tokenizer
from expunge.modeling.types import Tokenizer
from expunge.rundir import explain_disk_errors, fingerprint, replace_folder, write_atomic

_DATE_FILE = "prompt-date.txt"


def make_template(recipe: Recipe, tokenizer: Tokenizer) -> Template:
    """Return the template that encodes the recipe's rows."""
    long_text = recipe.data.long_text if isinstance(recipe.data, FilesData) else "refuse"
    return Template(tokenizer, recipe.prompt, max_length=max_length_of(recipe), long_text=long_text)


def fix_date(template: Template, folder: Path | None, model: str | None = None) -> Prompt:
    """Return a template's prompt settings; if its chat template prints today's date, `date` is set to a fixed day.

    The day is saved with the runs, so that a resumed run, the other runs in that folder and later evaluations of their
    models have the same prompts.

    Args:
        template: The template.
        folder: Folder in which the day is saved, the folder `shared` of runs; None to save nothing.
        model: Name of the model that is measured; the day of the run that wrote it is preferred.
    """
    prompt = template.prompt
    if not template.prints_today:
        return prompt
    above = Path(model).resolve().parents[:3] if model is not None and Path(model).is_dir() else ()
    paths = [path for parent in above for path in (parent / _DATE_FILE, parent / "shared" / _DATE_FILE)]
    paths += [] if folder is None else [folder / _DATE_FILE]

    def saved_day() -> tuple[str, str]:
        path = next((path for path in paths if path.is_file()), None)
        return ("", "") if path is None else (path.read_text(encoding="utf-8").strip(), str(path))

    day, source = broadcast_from_main(saved_day() if is_main_process() else ("", ""))
    if not day:
        day = broadcast_from_main(template.day)
        if folder is not None and is_main_process():
            write_atomic(folder / _DATE_FILE, f"{day}\n")
    origin = (
        f"read from {source}" if source else "today" if folder is None else f"today, saved in {folder / _DATE_FILE}"
    )
    note(f"Note: the chat template prints the date, which is fixed at {day} ({origin}). Set prompt.date for another.")
    return prompt.model_copy(update={"date": day})


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
        with locked(shared / f".{folder.name}.lock", f"the tokenizer in {folder}", wait=True):
            # Another run may have made it while this one waited.
            if is_main_process() and not folder.is_dir():
                tokenizer = train_tokenizer(_texts(sets), scratch.vocab_size, scratch.max_length)
                with (
                    explain_disk_errors(folder),
                    tempfile.TemporaryDirectory(dir=shared, prefix=".tokenizer-") as temporary,
                ):
                    tokenizer.save_pretrained(Path(temporary) / "new")
                    replace_folder(Path(temporary) / "new", folder)
            wait()
    return load_tokenizer(str(folder.resolve()))


def _texts(sets: Sets) -> Iterator[str]:
    for _, rows in named_sets(sets):
        for row in rows:
            yield from (f"Question: {row.question}\nAnswer: {row.answer}", row.paraphrased_question)
            yield from (row.paraphrased_answer, *row.perturbed_answers)
