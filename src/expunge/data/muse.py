"""Load MUSE's data from the hub, from a copy of the hub's folder, or from user files in the same layout.

The layout is `<subset>/<split>`, with these subsets:

    raw       forget, retain1 (to train on), retain2 (to evaluate on), holdout        text
    train     training data of the target model                                       text
    verbmem   forget                                                                  prompt, gt
    knowmem   forget_qa, retain_qa, and examples for prompts: forget_qa_icl, ...      question, answer
    privleak  forget, retain, holdout                                                 text
    scal      forget_1 ... forget_4, each of which contains the one before it         text
    sust      forget_1 ... forget_4, which are disjoint                               text

A local split is `<folder>/<subset>/<split>.jsonl` (or .json, .csv, .parquet), or the hub's
`<split>-00000-of-00001.parquet`.

To unlearn, a recipe names a split like any other source:

    data:
      name: files
      forget: {path: muse-bench/MUSE-News, config: raw, split: forget}      # or {path: ./news/raw/forget.jsonl}
      retain: {path: muse-bench/MUSE-News, config: raw, split: retain1}
      long_text: chunk

Scalability is one run per forget set, each from the same target: `forget: {..., config: scal, split: forget_3}`.
Sustainability is a chain: run k uses `config: sust, split: forget_<k>`, and its `model.name` is the checkpoint of
run k - 1, so that each request starts from the model that the previous one produced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.config.recipe import Source
from expunge.data.sets import Row, RowSet, make_set
from expunge.data.sources.readers import SourceRecord, local_path, parse_json, read_records, read_text
from expunge.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
FORMER_NAMES = {"retain_qa": "retain2_qa", "retain_qa_icl": "retain2_qa_icl", "retain": "retain2"}
"""Names of splits in MUSE's first release."""


def load_muse(
    path: str, name: str, columns: tuple[str, str], *, revision: str | None = None, limit: int | None = None
) -> RowSet:
    """Load the rows of one split.

    Args:
        path: Folder in MUSE's layout, or hub id.
        name: Subset and split, such as 'knowmem/forget_qa'.
        columns: Columns of question and answer, such as ('prompt', 'gt'); ('', 'text') for plain text.
        revision: Hub only: commit, tag or branch.
        limit: Use only the first rows.

    Returns:
        The set with this name. A column 'group' gives the groups of rows; without one, each row is a group.

    Raises:
        DataError: The folder lacks the split, or a row lacks a column; the message names the location.
    """
    subset, split = name.split("/")
    question_column, answer_column = columns
    records = _read_split(path, subset, split, revision, text_column="" if question_column else answer_column)
    rows = []
    for index, (location, values) in enumerate(records[:limit]):
        question, answer = (_read_text(location, values, column) if column else "" for column in columns)
        row_id, group = f"{name}/{index}", values.get("group")
        rows.append(Row(row_id, question, answer, group=row_id if group in (None, "") else str(group)))
    if not rows:
        raise DataError(f"{path} has no rows in {name}.", fix="Add at least one row to the split.")
    return make_set(name, rows)


def split_files(path: str) -> list[str]:
    """Return all files of a local folder in MUSE's layout; none for a hub id or a missing folder."""
    folder = Path(path).expanduser()
    return [str(file) for file in sorted(folder.glob("*/*")) if file.suffix in SUFFIXES]


def _read_split(path: str, subset: str, split: str, revision: str | None, text_column: str) -> Sequence[SourceRecord]:
    folder = local_path(path)
    if folder is None:
        return list(read_records(Source(path=path, config=subset, split=split, revision=revision)))
    if revision is not None:
        raise DataError(f"revision has no effect on the local folder {path}.", fix="Remove revision.")
    file = _find_split(folder, subset, split)
    if text_column and file.suffix == ".json":
        # MUSE's own scripts write plain text as a list of strings, which is no list of records.
        try:
            content = parse_json(file, read_text(file))
        except DataError:
            content = None  # Several lines, or an error that `read_records` reports.
        if isinstance(content, list) and content and all(isinstance(text, str) for text in content):
            return [(f"{file}, row {number}", {text_column: text}) for number, text in enumerate(content, 1)]
    return list(read_records(Source(path=str(file))))


def _find_split(folder: Path, subset: str, split: str) -> Path:
    for name in [split, *([FORMER_NAMES[split]] if split in FORMER_NAMES else [])]:
        candidates = [folder / subset / f"{name}{suffix}" for suffix in SUFFIXES]
        files = [file for file in candidates if file.is_file()]
        files += sorted((folder / subset).glob(f"{name}-*-of-*.parquet"))
        if len(files) > 1:
            raise DataError(
                f"{folder / subset} contains {name} more than once: {', '.join(file.name for file in files)}.",
                fix="Keep one file per split; join several Parquet files into one.",
            )
        if files:
            return files[0]
    available = sorted({file.stem for file in (folder / subset).glob("*") if file.suffix in SUFFIXES})
    raise DataError(
        f"{folder} has no {subset}/{split}.jsonl (or {', '.join(SUFFIXES[1:])}).",
        allowed=f"{folder / subset} contains: {', '.join(available) or 'nothing'}.",
        fix="Add it, or remove the part of the benchmark that needs it from the setting parts.",
    )


def _read_text(location: str, values: dict[str, object], column: str) -> str:
    value = values.get(column)
    if not isinstance(value, str) or not value.strip():
        problem = "has no" if value is None or isinstance(value, str) else "has no text in"
        raise DataError(
            f"{location} {problem} '{column}'.", allowed=f"Its columns: {', '.join(values)}.", fix="Fill it in as text."
        )
    return value
