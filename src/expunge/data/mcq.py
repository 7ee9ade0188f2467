"""Read multiple-choice questions from local JSONL files, for machines without access to the hub.

Each line is one question: {"question": "...", "choices": ["...", "..."], "answer": 0}, where `answer` is the index of
the right choice, from 0. Questions about a text (BoolQ) also have a "passage". WMDP and MMLU have this format on the
hub.
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

FOLDER_VARIABLE = "EXPUNGE_MCQ"
"""Environment variable with the path of the folder of question files."""
SPLITS = ("test", "validation", "val")
"""Splits that questions may come from, in order of preference."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question."""

    text: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice."""
    passage: str = ""


@dataclass(frozen=True)
class QuestionFile:
    """All questions of one file."""

    path: Path
    split: str
    questions: tuple[Question, ...]

    @property
    def hash(self) -> str:
        """Return a hash of the questions and their order."""
        return fingerprint([[item.passage, item.text, item.choices, item.answer] for item in self.questions])


@dataclass(frozen=True)
class Layout:
    """File name and row format of a task."""

    stem: str
    """Start of the file name, with its folder if it has one: 'arc_easy', 'mmlu/anatomy'."""
    num_choices: int | None = None
    """Number of choices of every question; None if it varies."""
    choices: tuple[str, ...] = ()
    """Choices of every question, if all have the same."""
    passage: bool = False
    """Whether questions need a passage."""
    blank: bool = False
    """Whether questions need a `_`, which the choices fill."""


def question_folder(data: str) -> Path | None:
    """Return the folder of question files that a setting names, or None for the hub.

    Args:
        data: 'hub', the path of a folder, or 'auto': the folder named by the environment variable EXPUNGE_MCQ, or
            the hub if it is not set.

    Raises:
        DataError: The folder does not exist.
    """
    if data == "hub":
        return None
    name = os.environ.get(FOLDER_VARIABLE) if data == "auto" else data
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        origin = f" (from {FOLDER_VARIABLE})" if data == "auto" else ""
        raise DataError(
            f"the folder of questions {folder}{origin} does not exist.",
            allowed=f"Allowed: a folder of JSONL files, 'hub', or 'auto' (the folder in {FOLDER_VARIABLE} or the hub).",
        )
    return folder


def find_file(folder: Path, stem: str, splits: tuple[str, ...] = SPLITS) -> tuple[Path, str] | None:
    """Return the file and split of a task in a folder, such as '<stem>_test.jsonl' or 'hellaswag_val_1000.jsonl'.

    Raises:
        DataError: Several files match equally well.
    """
    parent, prefix = (folder / stem).parent, (folder / stem).name
    for split in splits:
        pattern = re.compile(rf"{re.escape(prefix)}(_[a-z]+)?_{split}(_\d+)?\.jsonl")
        matches = sorted(path for path in parent.glob("*.jsonl") if pattern.fullmatch(path.name))
        # The exact name is preferred: 'arc_easy_test' to 'arc_easy_small_test'.
        exact = [path for path in matches if path.name == f"{prefix}_{split}.jsonl"]
        if len(matches) > 1 and not exact:
            raise DataError(
                f"{parent} contains several files of {prefix}: {', '.join(path.name for path in matches)}.",
                fix=f"Keep one, or rename the right one to {prefix}_{split}.jsonl.",
            )
        if matches:
            return (exact or matches)[0], "validation" if split == "val" else split
    return None


def read_questions(path: Path, split: str, layout: Layout) -> QuestionFile:
    """Read and check a file of questions.

    Raises:
        DataError: The file has no row, or a row is malformed; the message names its line.
    """
    records = read_records(Source(path=str(path)))
    return QuestionFile(path, split, tuple(_parse_question(location, row, layout) for location, row in records))


def _parse_question(location: str, row: Mapping[str, Any], layout: Layout) -> Question:
    text, choices, answer = row.get("question"), row.get("choices"), row.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{location}: 'question' must be a string with text, got {_shorten(text)}.")
    if layout.blank and "_" not in text:
        raise DataError(f"{location}: the question has no '_' for the choices to fill: {_shorten(text)}.")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(item, str) and item for item in choices):
        raise DataError(
            f"{location}: 'choices' must be a list of at least two non-empty strings, got {_shorten(choices)}."
        )
    if layout.num_choices not in (None, len(choices)):
        raise DataError(f"{location}: the question has {len(choices)} choices, but its task has {layout.num_choices}.")
    if layout.choices and tuple(choices) != layout.choices:
        raise DataError(f"{location}: 'choices' must be {list(layout.choices)}, got {_shorten(choices)}.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(
            f"{location}: 'answer' must be the index of the right choice, 0 to {len(choices) - 1}, "
            f"got {_shorten(answer)}."
        )
    passage = row.get("passage") or ""
    if layout.passage and (not isinstance(passage, str) or not passage.strip()):
        raise DataError(f"{location}: 'passage' must be a string with text, got {_shorten(row.get('passage'))}.")
    return Question(text, tuple(choices), answer, passage if layout.passage else "")


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
