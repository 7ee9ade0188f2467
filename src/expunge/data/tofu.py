"""Load TOFU: 200 fictitious authors with 20 questions each (Maini et al. 2024, arXiv:2401.06121).

The published splits cut one list of 4000 rows: the last 1, 5 or 10 per cent are the forget set, the rest is the
retain set. holdout01, holdout05 and holdout10 are optional: rows of the same kind that no model was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expunge.config.recipe import Source, TofuData
from expunge.console import note
from expunge.data.sets import Row, RowSet, Sets, make_set
from expunge.data.sources.readers import local_path
from expunge.data.sources.rows import load_rows
from expunge.errors import DataError

NUM_ROWS = 4000
ROWS_PER_AUTHOR = 20
_NUM_FORGET = {"forget01": 40, "forget05": 200, "forget10": 400}
_NUM_EVALUATION_RETAIN = 400
_BACKGROUND = {"real_authors": 100, "world_facts": 117}
_NUM_PERTURBED = {"forget": 5, "retain": 5, "real_authors": 3, "world_facts": 3}


def load_tofu(config: TofuData) -> Sets:
    """Load TOFU's forget and retain sets and its four evaluation sets.

    The group of a row is its author, so intervals resample authors; each row of real_authors and world_facts is a
    group.

    Args:
        config: Split, and a hub id or a folder with forget10.json, forget10_perturbed.json and so on. If it has
            holdout10 (holdout01, holdout05), that becomes the holdout set; only membership metrics need it. With
            `retain_authors`, the retain set has only the rows of these authors.

    Raises:
        DataError: A file is missing or incomplete, or its rows are not those of the split; or the retain set has fewer
            authors than `retain_authors`.
    """
    num_forget = _NUM_FORGET[config.split]
    num_retain = NUM_ROWS - num_forget
    retain_split = f"retain{100 - int(config.split[-2:]):02d}"
    num_authors = num_retain // ROWS_PER_AUTHOR
    if config.retain_authors is not None and config.retain_authors > num_authors:
        raise DataError(
            f"data.retain_authors is {config.retain_authors}, but {retain_split} has {num_authors} authors.",
            fix="Lower it, or remove it to use all of them.",
        )
    perturbed_splits = {
        "forget": f"{config.split}_perturbed",
        "retain": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }
    _check_folder(config, [config.split, retain_split, *perturbed_splits.values()])

    forget = _group_by_author(_load_split(config, config.split, num_forget), first=num_retain)
    retain = _group_by_author(_load_split(config, retain_split, num_retain), first=0)
    evaluation: dict[str, list[Row]] = {}
    sizes = {"forget": num_forget, "retain": _NUM_EVALUATION_RETAIN, **_BACKGROUND}
    for name, split in perturbed_splits.items():
        evaluation[name] = _load_split(config, split, sizes[name])
        for number, row in enumerate(evaluation[name], 1):
            if len(row.perturbed_answers) != _NUM_PERTURBED[name]:
                raise DataError(
                    f"row {number} of {split} of {config.path} has {len(row.perturbed_answers)} perturbed answers, "
                    f"but TOFU has {_NUM_PERTURBED[name]}.",
                    fix="Use the published files unchanged.",
                )
    _check_same_questions(config, config.split, forget, evaluation["forget"])
    _check_same_questions(config, retain_split, retain[:_NUM_EVALUATION_RETAIN], evaluation["retain"])
    if config.retain_authors is not None:
        retain = retain[: config.retain_authors * ROWS_PER_AUTHOR]
    evaluation["forget"] = _group_by_author(evaluation["forget"], first=num_retain)
    evaluation["retain"] = _group_by_author(evaluation["retain"], first=0)
    for name in _BACKGROUND:
        evaluation[name] = [replace(row, group=f"{name}/{i}") for i, row in enumerate(evaluation[name])]
    return Sets(
        name=f"tofu/{config.split}",
        forget=make_set(config.split, forget),
        retain=make_set(retain_split, retain),
        holdout=_load_holdout(config, [*forget, *retain]),
        evaluation={name: make_set(name, rows) for name, rows in evaluation.items()},
    )


def split_sizes(config: TofuData) -> dict[str, int]:
    """Return the number of forget and retain rows that a split has, without reading them."""
    num_forget = _NUM_FORGET[config.split]
    num_retain = NUM_ROWS - num_forget
    if config.retain_authors is not None:
        num_retain = min(num_retain, config.retain_authors * ROWS_PER_AUTHOR)
    return {"forget": num_forget, "retain": num_retain}


def _check_folder(config: TofuData, splits: Sequence[str]) -> None:
    folder = local_path(config.path)
    if folder is None:
        return
    if not folder.is_dir():
        raise DataError(f"{config.path} is a file.", fix="Give the folder that contains TOFU's files, or its hub id.")
    if config.revision is not None:
        raise DataError(
            f"revision has no effect on the local folder {config.path}.",
            fix="Remove revision, or give a hub id as path.",
        )
    missing = [f"{split}.json" for split in splits if not (folder / f"{split}.json").is_file()]
    if missing:
        raise DataError(
            f"the folder {config.path} lacks {', '.join(missing)}.",
            fix=f"Add these files of TOFU, which {config.split} needs; the hub id locuslab/TOFU has all of them.",
        )


def _load_holdout(config: TofuData, trained: Sequence[Row]) -> RowSet | None:
    """Load the holdout set, or return None if the folder or the hub has none.

    Raises:
        DataError: Models are trained on one of its rows, so it is useless as a control for membership.
    """
    split = f"holdout{config.split[-2:]}"
    folder = local_path(config.path)
    if folder is None:
        import datasets

        try:
            exists = split in datasets.get_dataset_config_names(config.path, revision=config.revision)
        except Exception as error:  # The hub client raises classes of several packages. The holdout set is optional.
            note(f"No holdout set: the configurations of {config.path} cannot be listed ({type(error).__name__}).")
            exists = False
    else:
        exists = (folder / f"{split}.json").is_file()
    if not exists:
        return None
    rows = load_rows(_source(config, split), split)
    trained_pairs = {(row.question, row.answer) for row in trained}
    for number, row in enumerate(rows, 1):
        if (row.question, row.answer) in trained_pairs:
            raise DataError(
                f"row {number} of {split} of {config.path} ('{row.question}') is also a forget or retain row, but no "
                "model may be trained on the holdout set.",
                fix=f"Use the published files unchanged, or remove {split}.",
            )
    return make_set("holdout", _group_by_author(rows, first=NUM_ROWS))


def _source(config: TofuData, split: str) -> Source:
    folder = local_path(config.path)
    if folder is None:
        return Source(path=config.path, config=split, split="train", revision=config.revision)
    return Source(path=str(folder / f"{split}.json"))


def _load_split(config: TofuData, split: str, num_rows: int) -> list[Row]:
    rows = load_rows(_source(config, split), split)
    if len(rows) != num_rows:
        raise DataError(
            f"{split} of {config.path} has {len(rows)} rows, but TOFU has {num_rows}.",
            fix="The file is incomplete or not TOFU's; download it again.",
        )
    return rows


def _group_by_author(rows: Sequence[Row], first: int) -> list[Row]:
    """Set the group of each row to its author; `first` is the index of the first row in TOFU's full list."""
    return [replace(row, group=f"author/{(first + i) // ROWS_PER_AUTHOR}") for i, row in enumerate(rows)]


def _check_same_questions(config: TofuData, split: str, rows: Sequence[Row], perturbed: Sequence[Row]) -> None:
    for number, (row, perturbed_row) in enumerate(zip(rows, perturbed, strict=True), 1):
        if (row.question, row.answer) != (perturbed_row.question, perturbed_row.answer):
            raise DataError(
                f"row {number} of {split} of {config.path} ('{row.question}') differs from the same row of its "
                f"perturbed file ('{perturbed_row.question}') in question or answer.",
                fix="Use files of the same release of TOFU.",
            )
