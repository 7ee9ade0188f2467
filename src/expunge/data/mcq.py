"""Multiple-choice questions in local JSONL files, for machines without the hub.

One question per line: {"question": "...", "choices": ["...", "..."], "answer": 0}, where `answer` is the place of the
right choice, from 0; BoolQ's rows have a "passage" besides. WMDP and MMLU are laid out so on the hub, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config.recipe import Source
from expunge.data.sources.readers import read_records
from expunge.errors import DataError
from expunge.rundir import fingerprint

VARIABLE = "EXPUNGE_DATA"
"""Environment variable that names the folder of question files."""
PLACES = ("data/mcq", "shared/data/mcq", "../shared/data/mcq")
"""Where such a folder is looked for, from the folder in which the command runs."""
SPLITS = ("test", "validation", "val")
"""Endings of the files that are measured; the first that is there is taken."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question."""

    text: str
    choices: tuple[str, ...]
    answer: int
    """Place of the right choice."""
    passage: str = ""


@dataclass(frozen=True)
class QuestionFile:
    """All questions of one file."""

    path: Path
    split: str
    questions: tuple[Question, ...]

    @property
    def hash(self) -> str:
        """Content hash: equal questions in equal order give equal hashes."""
        return fingerprint([[item.passage, item.text, item.choices, item.answer] for item in self.questions])


@dataclass(frozen=True)
class Layout:
    """What the rows of a task must have."""

    stem: str
    """Start of the file's name, with a folder where the task has one: 'arc_easy', 'mmlu/anatomy'."""
    num_choices: int | None = None
    """None where it varies."""
    choices: tuple[str, ...] = ()
    """The choices themselves, where all questions have the same."""
    passage: bool = False
    blank: bool = False
    """The question holds a `_` that the choices fill."""


def question_folder(data: str) -> Path | None:
    """The folder of question files that a setting means; None for the hub.

    Args:
        data: 'hub', the path of a folder, or 'auto': the folder that EXPUNGE_DATA names, else the first of `PLACES`
            that exists, else the hub.

    Raises:
        DataError: The folder does not exist.
    """
    if data == "hub":
        return None
    named = os.environ.get(VARIABLE) if data == "auto" else data
    if not named:
        return next((folder for folder in map(Path, PLACES) if folder.is_dir()), None)
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = f" (from {VARIABLE})" if data == "auto" else ""
        raise DataError(
            f"the folder of questions {folder}{origin} does not exist.",
            allowed="Allowed: a folder of JSONL files, 'hub', or 'auto'.",
        )
    return folder


def find_file(folder: Path, stem: str, splits: tuple[str, ...] = SPLITS) -> tuple[Path, str] | None:
    """File and split of a task in a folder: '<stem>_test.jsonl', 'hellaswag_val_1000.jsonl' and the like.

    Raises:
        DataError: Several files would do.
    """
    place = folder / stem
    for split in splits:
        pattern = re.compile(rf"{re.escape(place.name)}(_[a-z]+)?_{split}(_\d+)?\.jsonl")
        # The plain name goes first: 'arc_easy_test' before 'arc_easy_small_test'.
        found = sorted(path for path in place.parent.glob("*.jsonl") if pattern.fullmatch(path.name))
        exact = [path for path in found if path.name == f"{place.name}_{split}.jsonl"]
        if len(found) > 1 and not exact:
            raise DataError(
                f"{place.parent} holds several files of {place.name}: {', '.join(path.name for path in found)}.",
                fix=f"Keep one, or call the right one {place.name}_{split}.jsonl.",
            )
        if found:
            return (exact or found)[0], "validation" if split == "val" else split
    return None


def read_questions(path: Path, split: str, layout: Layout) -> QuestionFile:
    """Read and check a file of questions.

    Raises:
        DataError: A row is malformed (file and line are named), or there is none.
    """
    rows = read_records(Source(path=str(path)))
    return QuestionFile(path, split, tuple(_question(where, row, layout) for where, row in rows))


def _question(where: str, row: Mapping[str, Any], layout: Layout) -> Question:
    text, choices, answer = row.get("question"), row.get("choices"), row.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: 'question' has to be a text, got {_short(text)}.")
    if layout.blank and "_" not in text:
        raise DataError(f"{where}: the question has no '_' for the choices to fill: {_short(text)}.")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(item, str) and item for item in choices):
        raise DataError(f"{where}: 'choices' has to be a list of at least two texts, got {_short(choices)}.")
    if layout.num_choices not in (None, len(choices)):
        raise DataError(f"{where}: has {len(choices)} choices, but this task has {layout.num_choices}.")
    if layout.choices and tuple(choices) != layout.choices:
        raise DataError(f"{where}: 'choices' has to be {list(layout.choices)}, got {_short(choices)}.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(
            f"{where}: 'answer' has to be the place of the right choice, 0 to {len(choices) - 1}, got {_short(answer)}."
        )
    passage = row.get("passage") or ""
    if layout.passage and (not isinstance(passage, str) or not passage.strip()):
        raise DataError(f"{where}: 'passage' has to be a text, got {_short(row.get('passage'))}.")
    return Question(text, tuple(choices), answer, passage if layout.passage else "")


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
