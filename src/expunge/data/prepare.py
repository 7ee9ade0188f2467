"""From the recipe's data section to the sets of an experiment."""

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
    """Load or make the sets that a recipe asks for, and refuse those on which unlearning has no meaning.

    Raises:
        DataError: Something is missing, malformed or empty, or the retain set holds the whole forget set.
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
    """The user's own sets; their name holds a hash of the content, which can change under the same path."""
    forget = make_set("forget", _forget_rows(config))
    retain, holdout = _optional(config.retain, "retain"), _optional(config.holdout, "holdout")
    hashes = ["" if part is None else part.hash for part in (forget, retain, holdout)]
    return Sets(
        name=f"files/{fingerprint(hashes)}",
        forget=forget,
        retain=retain,
        holdout=holdout,
        evaluation={part.name: part for part in (forget, retain) if part is not None},
        sensitive=config.sensitive,
    )


def _forget_rows(config: FilesData) -> list[Row]:
    """Rows of all topics, one topic after the other."""
    found: list[Row] = []
    for topic, source in config.forget_sources.items():
        rows = load_rows(source, f"forget/{topic}" if topic else "forget")
        found += [replace(row, topic=topic) for row in rows] if topic else rows
    return found


def _optional(source: Source | None, name: str) -> RowSet | None:
    return None if source is None else make_set(name, load_rows(source, name))


def is_local(recipe: Recipe) -> bool:
    """Whether all data of a recipe is on this machine.

    Raises:
        DataError: A path looks local and does not exist.
    """
    data = recipe.data
    if isinstance(data, FilesData):
        return all([local_path(source.path) is not None for source in data.sources])
    return not isinstance(data, TofuData) or local_path(data.path) is not None
