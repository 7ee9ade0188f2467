"""Load the sets of an experiment from the data section of a recipe."""

from __future__ import annotations

from dataclasses import replace

from expunge.config.recipe import DataConfig, FilesData, Recipe, Source, SyntheticData, TofuData
from expunge.data.sets import Row, RowSet, Sets, make_set
from expunge.data.sources.readers import local_path
from expunge.data.sources.rows import load_rows
from expunge.data.synthetic.people import load_synthetic
from expunge.data.tofu import load_tofu
from expunge.rundir import fingerprint


def prepare_sets(config: DataConfig) -> Sets:
    """Load or generate the sets of a recipe, and raise if unlearning is meaningless on them.

    Raises:
        DataError: Data is missing, malformed or empty, or the retain set contains the whole forget set.
    """
    match config:
        case TofuData():
            sets = load_tofu(config)
        case SyntheticData():
            sets = load_synthetic(config)
        case FilesData():
            sets = load_files(config)
    sets.check()
    return sets


def load_files(config: FilesData) -> Sets:
    """Load user-defined sets; their name contains a content hash, because a file can change under the same path."""
    forget_rows: list[Row] = []
    for topic, source in config.forget_sources.items():
        rows = load_rows(source, f"forget/{topic}" if topic else "forget")
        forget_rows += [replace(row, topic=topic) for row in rows] if topic else rows
    forget = make_set("forget", forget_rows)
    retain, holdout = _load_optional(config.retain, "retain"), _load_optional(config.holdout, "holdout")
    hashes = ["" if rows is None else rows.hash for rows in (forget, retain, holdout)]
    return Sets(
        name=f"files/{fingerprint(hashes)}",
        forget=forget,
        retain=retain,
        holdout=holdout,
        evaluation={rows.name: rows for rows in (forget, retain) if rows is not None},
        sensitive=config.sensitive,
    )


def _load_optional(source: Source | None, name: str) -> RowSet | None:
    return None if source is None else make_set(name, load_rows(source, name))


def is_local(recipe: Recipe) -> bool:
    """Return whether all data of a recipe is on this machine.

    Raises:
        DataError: A path looks local and does not exist.
    """
    data = recipe.data
    if isinstance(data, FilesData):
        # A list, because `all` would not check the paths after the first hub id.
        return all([local_path(source.path) is not None for source in data.sources])
    return not isinstance(data, TofuData) or local_path(data.path) is not None
