"""MUSE's data: the same subsets and splits on the hub, in a copy of the hub's folder, or in files of one's own.

The layout is `<subset>/<split>`, with these subsets:

    raw       forget, retain1 (to train with), retain2 (to measure on), holdout       text
    train     what the target model was fine-tuned on                                 text
    verbmem   forget                                                                  prompt, gt
    knowmem   forget_qa, retain_qa, and examples for prompts: forget_qa_icl, ...      question, answer
    privleak  forget, retain, holdout                                                 text
    scal      forget_1 ... forget_4, each of which holds the one before it            text
    sust      forget_1 ... forget_4, which have nothing in common                     text

A local split is `<folder>/<subset>/<split>.jsonl` (or .json, .csv, .parquet), or the hub's own
`<split>-00000-of-00001.parquet`.

To unlearn, a recipe names a split as any other source:

    data:
      name: files
      forget: {path: muse-bench/MUSE-News, config: raw, split: forget}      # or {path: ./news/raw/forget.jsonl}
      retain: {path: muse-bench/MUSE-News, config: raw, split: retain1}
      long_text: chunk

Scalability is one run per forget set, each from the same target: `forget: {..., config: scal, split: forget_3}`.
Sustainability is a chain: run k takes `config: sust, split: forget_<k>`, and its `model.name` is the checkpoint of
run k - 1, so that each request is unlearnt from what the one before it left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from expunge.config.recipe import Source
from expunge.data.sets import Row, RowSet, make_set
from expunge.data.sources.readers import Record, local_path, read_records, read_text
from expunge.errors import DataError

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
FORMER_NAMES = {"retain_qa": "retain2_qa", "retain_qa_icl": "retain2_qa_icl", "retain": "retain2"}
"""Splits that the first release called otherwise."""


def load_muse(
    path: str, name: str, columns: tuple[str, str], *, revision: str | None = None, limit: int | None = None
) -> RowSet:
    """Rows of one split.

    Args:
        path: Folder in MUSE's layout, or hub id.
        name: Subset and split, such as 'knowmem/forget_qa'.
        columns: What becomes question and answer, such as ('prompt', 'gt'); ('', 'text') for plain text.
        revision: Hub only: commit, tag or branch.
        limit: Use only the first rows.

    Returns:
        The set of this name; a column 'group' says which rows belong together, else each is by itself.

    Raises:
        DataError: The folder lacks the split, or a row lacks a column; the message says where.
    """
    subset, split = name.split("/")
    records = _records(path, subset, split, revision, text_column=columns[1] if not columns[0] else "")
    rows = [_row(f"{name}/{index}", record, columns) for index, record in enumerate(records[:limit])]
    if not rows:
        raise DataError(f"{path} has no rows in {name}.", fix="Give the split at least one row.")
    return make_set(name, rows)


def split_files(path: str) -> list[str]:
    """Every file of a local folder in MUSE's layout; nothing for a hub id or a folder that is missing."""
    folder = Path(path).expanduser()
    return [str(file) for file in sorted(folder.glob("*/*")) if file.suffix in ENDINGS]


def _records(path: str, subset: str, split: str, revision: str | None, text_column: str) -> Sequence[Record]:
    folder = local_path(path)
    if folder is None:
        return list(read_records(Source(path=path, config=subset, split=split, revision=revision)))
    if revision is not None:
        raise DataError(f"revision has no effect on {path}, which is on this machine.", fix="Remove revision.")
    file = _split_file(folder, subset, split)
    texts = _list_of_texts(file) if text_column and file.suffix == ".json" else None
    if texts is not None:
        return [(f"{file}, row {number}", {text_column: text}) for number, text in enumerate(texts, 1)]
    return list(read_records(Source(path=str(file))))


def _split_file(folder: Path, subset: str, split: str) -> Path:
    names = [split, *([FORMER_NAMES[split]] if split in FORMER_NAMES else [])]
    for name in names:
        found = [folder / subset / f"{name}{ending}" for ending in ENDINGS]
        found = [file for file in found if file.is_file()] + sorted((folder / subset).glob(f"{name}-*-of-*.parquet"))
        if len(found) > 1:
            raise DataError(
                f"{folder / subset} holds the split {name} more than once: {', '.join(file.name for file in found)}.",
                fix="Keep one file per split; join shards into one.",
            )
        if found:
            return found[0]
    there = sorted({file.stem for file in (folder / subset).glob("*") if file.suffix in ENDINGS})
    raise DataError(
        f"{folder} has no {subset}/{split}.jsonl (or {', '.join(ENDINGS[1:])}).",
        allowed=f"{folder / subset} holds: {', '.join(there) or 'nothing'}.",
        fix="Add it, or leave out the part of the benchmark that needs it (parts).",
    )


def _list_of_texts(file: Path) -> list[str] | None:
    """The texts of a .json file that is a list of strings, as MUSE's own scripts write it; else None."""
    try:
        value = json.loads(read_text(file))
    except ValueError:
        return None
    return value if isinstance(value, list) and value and all(isinstance(item, str) for item in value) else None


def _row(id: str, record: Record, columns: tuple[str, str]) -> Row:
    where, values = record
    question, answer = (_text(where, values, column) if column else "" for column in columns)
    group = values.get("group")
    return Row(id, question, answer, group=str(group) if group not in (None, "") else id)


def _text(where: str, values: dict[str, object], column: str) -> str:
    value = values.get(column)
    if not isinstance(value, str) or not value.strip():
        problem = "has no" if value is None or isinstance(value, str) else "holds no text in"
        raise DataError(
            f"{where} {problem} '{column}'.", allowed=f"Its columns: {', '.join(values)}.", fix="Fill it in as text."
        )
    return value
