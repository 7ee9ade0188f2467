"""TOFU: 200 fictitious authors with 20 questions each (Maini et al. 2024, arXiv:2401.06121).

The published splits cut one list of 4000 rows: its last 1, 5 or 10 per cent are the forget set, the rest the
retain set. Beside them may be holdout01, holdout05 and holdout10: rows of the same kind that no model was trained on.
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
    """TOFU's forget and retain sets, and the four sets that it measures.

    A group is an author, so that intervals resample authors; real authors and world facts are single rows.

    Args:
        config: The split, and a hub id or a folder with forget10.json, forget10_perturbed.json and so on. Where
            holdout10 (holdout01, holdout05) is there, it becomes the holdout set; nothing needs it but membership.

    Raises:
        DataError: A file is missing or cut short, or its rows are not those of the split.
    """
    num_forget = _NUM_FORGET[config.split]
    num_retain = NUM_ROWS - num_forget
    retain_split = f"retain{100 - int(config.split[-2:]):02d}"
    _check_folder(config, [config.split, retain_split, *_perturbed_names(config.split).values()])

    forget = _by_author(_load(config, config.split, num_forget), first=num_retain)
    retain = _by_author(_load(config, retain_split, num_retain), first=0)
    evaluation: dict[str, list[Row]] = {}
    sizes = {"forget": num_forget, "retain": _NUM_EVALUATION_RETAIN, **_BACKGROUND}
    for name, stem in _perturbed_names(config.split).items():
        rows = _load(config, stem, sizes[name])
        _check_perturbed(config, stem, rows, _NUM_PERTURBED[name])
        evaluation[name] = rows
    _check_same(config, config.split, forget, evaluation["forget"])
    _check_same(config, retain_split, retain[:_NUM_EVALUATION_RETAIN], evaluation["retain"])
    evaluation["forget"] = _by_author(evaluation["forget"], first=num_retain)
    evaluation["retain"] = _by_author(evaluation["retain"], first=0)
    for name in _BACKGROUND:
        evaluation[name] = [replace(row, group=f"{name}/{i}") for i, row in enumerate(evaluation[name])]
    return Sets(
        name=f"tofu/{config.split}",
        forget=make_set(config.split, forget),
        retain=make_set(retain_split, retain),
        holdout=_holdout(config, [*forget, *retain]),
        evaluation={name: make_set(name, rows) for name, rows in evaluation.items()},
    )


def _perturbed_names(split: str) -> dict[str, str]:
    """Evaluation set -> file or hub configuration that holds it."""
    return {
        "forget": f"{split}_perturbed",
        "retain": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }


def _check_folder(config: TofuData, stems: Sequence[str]) -> None:
    folder = local_path(config.path)
    if folder is None:
        return
    if not folder.is_dir():
        raise DataError(f"{config.path} is a file.", fix="Give the folder that holds TOFU's files, or its hub id.")
    if config.revision is not None:
        raise DataError(
            f"revision has no effect on {config.path}, which is on this machine.",
            fix="Remove revision, or give a hub id as path.",
        )
    missing = [f"{stem}.json" for stem in stems if not (folder / f"{stem}.json").is_file()]
    if missing:
        raise DataError(
            f"the folder {config.path} lacks {', '.join(missing)}.",
            fix=f"{config.split} needs these files of TOFU; the hub id locuslab/TOFU has all of them.",
        )


def _holdout(config: TofuData, trained: Sequence[Row]) -> RowSet | None:
    """The holdout set, or None where the folder or hub has none.

    Raises:
        DataError: One of its rows is trained on, so that it says nothing about membership.
    """
    stem = f"holdout{config.split[-2:]}"
    folder = local_path(config.path)
    there = stem in _hub_names(config) if folder is None else (folder / f"{stem}.json").is_file()
    if not there:
        return None
    rows = load_rows(_source(config, stem), stem)
    known = {(row.question, row.answer) for row in trained}
    for i, row in enumerate(rows):
        if (row.question, row.answer) in known:
            raise DataError(
                f"row {i + 1} of {stem} of {config.path} ('{row.question}') is also a forget or retain row, so "
                f"{stem} is no set of rows that no model was trained on.",
                fix=f"Use the published files unchanged, or leave {stem} away.",
            )
    return make_set("holdout", _by_author(rows, first=NUM_ROWS))


def _hub_names(config: TofuData) -> list[str]:
    """Names of the hub's configurations; none, and a note, where they cannot be listed."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(config.path, revision=config.revision))
    except Exception as error:  # the hub client raises classes of several packages; the sets themselves are loaded
        note(f"No holdout set: the configurations of {config.path} cannot be listed ({type(error).__name__}).")
        return []


def _source(config: TofuData, stem: str) -> Source:
    folder = local_path(config.path)
    if folder is None:
        return Source(path=config.path, config=stem, split="train", revision=config.revision)
    return Source(path=str(folder / f"{stem}.json"))


def _load(config: TofuData, stem: str, num_rows: int) -> list[Row]:
    rows = load_rows(_source(config, stem), stem)
    if len(rows) != num_rows:
        raise DataError(
            f"{stem} of {config.path} has {len(rows)} rows, but TOFU's has {num_rows}.",
            fix="The file is cut short or not TOFU's; download it again.",
        )
    return rows


def _by_author(rows: Sequence[Row], first: int) -> list[Row]:
    """Set each row's group from its place in TOFU's full list, where `first` is the place of row 0."""
    return [replace(row, group=f"author/{(first + i) // ROWS_PER_AUTHOR}") for i, row in enumerate(rows)]


def _check_perturbed(config: TofuData, stem: str, rows: Sequence[Row], num_perturbed: int) -> None:
    for i, row in enumerate(rows):
        if len(row.perturbed_answers) != num_perturbed:
            raise DataError(
                f"row {i + 1} of {stem} of {config.path} has {len(row.perturbed_answers)} perturbed answers, "
                f"but TOFU's has {num_perturbed}.",
                fix="Use the published files unchanged.",
            )


def _check_same(config: TofuData, stem: str, rows: Sequence[Row], perturbed: Sequence[Row]) -> None:
    for i, (row, other) in enumerate(zip(rows, perturbed, strict=True)):
        if (row.question, row.answer) != (other.question, other.answer):
            raise DataError(
                f"row {i + 1} of {stem} of {config.path} asks '{row.question}', but the same row of its "
                f"perturbed file asks '{other.question}' or answers differently.",
                fix="Both files must come from the same release of TOFU.",
            )
