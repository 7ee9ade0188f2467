"""Unlearn the pending requests of a ledger, one run per request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.commands.requests.hashing import code_hash, model_file_hashes, salted_hash
from expunge.commands.requests.ledger import History, Ledger
from expunge.commands.requests.rows import hash_rows, load_training_data, write_row_file
from expunge.config.load import parse_recipe
from expunge.config.recipe import FilesData, Recipe
from expunge.console import note
from expunge.errors import DataError
from expunge.records import Manifest, RunSummary
from expunge.records.requests import Applied, Requested
from expunge.rundir import read_record
from expunge.runs.run import execute


def apply(folder: str | Path, limit: int | None = None) -> dict[str, RunSummary]:
    """Unlearn the next pending requests from the current model.

    Each request is an ordinary run whose target is the checkpoint of the previous request's run. An interrupted run
    resumes, and a request whose run is complete is only recorded.

    Args:
        folder: The ledger's folder.
        limit: Largest number of requests; None for all.

    Returns:
        Request -> summary of its run, in order.

    Raises:
        UserError: Another process applies requests, the current model was changed, or a run cannot be done.
        Interrupted: Ctrl-C; the same call continues.
    """
    ledger = Ledger(folder)
    done: dict[str, RunSummary] = {}
    with ledger.working():
        while limit is None or len(done) < limit:
            history = ledger.history()
            if not history.pending:
                break
            request = history.pending[0]
            note(f"Request {request.id}: {len(request.rows)} rows, {len(history.pending) - 1} more requests pending.")
            done[request.id] = _unlearn(ledger, history, request)
    return done


def _unlearn(ledger: Ledger, history: History, request: Requested) -> RunSummary:
    recipe = _run_recipe(ledger, history, request)
    summary = execute(recipe, ledger.runs)
    run = ledger.runs / Path(summary.folder).name
    manifest = read_record(run / "manifest.json", Manifest)
    event = Applied(
        id=request.id,
        run=run.relative_to(ledger.folder).as_posix(),
        model_files=model_file_hashes(run / "checkpoint"),
        data={name: salted_hash(history.opened.salt, digest) for name, digest in manifest.data_hashes.items()},
        code=code_hash(),
    )
    with ledger.writing() as current:
        if request.id not in current.applied:
            ledger.append(current, event)
    return summary


def _run_recipe(ledger: Ledger, history: History, request: Requested) -> Recipe:
    """Return the recipe of a request's run: the ledger's, with this request's rows and the current model."""
    recipe = ledger.recipe(history)
    current = ledger.current_model(history)
    settings = recipe.resolved()
    settings["name"] = request.id
    # Published values and deviations belong to the experiment that the recipe describes.
    for key in ("published", "deviations"):
        settings.pop(key, None)
    if current is not None:
        settings["model"]["name"] = str(current)
        settings["model"].pop("revision", None)
    settings["data"] = _data_section(ledger, history, request, recipe)
    return parse_recipe(settings, source=f"the recipe of request {request.id}")


def _data_section(ledger: Ledger, history: History, request: Requested, recipe: Recipe) -> dict[str, Any]:
    """Write the sets of a request's run, unless an interrupted one has them, and return the section that names them."""
    forget = ledger.rows_file(request.id)
    if not forget.is_file():
        raise DataError(f"{forget} is gone, so request '{request.id}' cannot be unlearned.", fix="Restore the file.")
    retain, holdout = ledger.rows_file(request.id, "retain"), ledger.rows_file(request.id, "holdout")
    # Retained rows are written once: a run that is resumed after another request has arrived must have the same sets.
    if not retain.is_file():
        sets, training = load_training_data(recipe.data)
        requested = {digest for other in history.requested.values() for digest in other.rows}
        retained = [row for digest, row in hash_rows(history.opened.salt, training).items() if digest not in requested]
        if sets.holdout is not None:
            write_row_file(holdout, sets.holdout)
        write_row_file(retain, retained)
    section: dict[str, Any] = {"name": "files", "duplicates": recipe.data.duplicates}
    if isinstance(recipe.data, FilesData):
        section |= {"sensitive": recipe.data.sensitive, "long_text": recipe.data.long_text}
    for name, path in {"forget": forget, "retain": retain, "holdout": holdout}.items():
        if path.is_file() and path.stat().st_size:
            section[name] = {"path": str(path.resolve())}
    return section
