"""Rows of questions and answers (or plain text), and the sets of an experiment."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from expunge.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """A question and its answer or, if `question` is empty, a plain text in `answer`."""

    id: str
    """Identifier such as 'forget10/12', unique within its data set and equal in every run."""
    question: str
    answer: str
    group: str
    """Cluster of dependent rows, such as a person or an article; confidence intervals resample groups."""
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()
    """Wrong answers of the same kind and form as the right one."""
    topic: str = ""
    """Part of the forget set, for methods that process one topic at a time."""
    max_tokens: int | None = None
    """Maximum length of plain text set by its source, in tokens; longer text is cut."""


@dataclass(frozen=True)
class RowSet:
    """An ordered set of rows with a content hash."""

    name: str
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @functools.cached_property
    def hash(self) -> str:
        """Return a hash of the rows and their order; the set's name and the row ids do not count."""
        digest = hashlib.sha256()
        for row in self.rows:
            # Unset, these two fields are left out, so that hashes match records from before the fields existed.
            ignored = {"id"} | {name for name in ("topic", "max_tokens") if not getattr(row, name)}
            content = {key: value for key, value in asdict(row).items() if key not in ignored}
            digest.update(json.dumps(content, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Sets:
    """All data that an experiment trains and evaluates on."""

    name: str
    """Name of the data, such as 'tofu/forget10'; records of different data are never compared."""
    forget: RowSet
    retain: RowSet | None
    holdout: RowSet | None = None
    always: RowSet | None = None
    """Background knowledge that is part of the training data of both target and retain model."""
    evaluation: dict[str, RowSet] = field(default_factory=dict)
    """Sets for benchmarks, by name; for TOFU: forget, retain, real_authors and world_facts."""
    sensitive: bool = False
    """Whether the forget texts are harmful, so that no record or report may contain any text."""

    def check(self) -> None:
        """Raise if unlearning is meaningless on these sets.

        Raises:
            DataError: The forget set or the retain set is empty, or the retain set contains every forget row.
        """
        if not len(self.forget):
            raise DataError(f"the forget set of {self.name} is empty.", fix="Add the rows that the model must forget.")
        if self.retain is None:
            return
        if not len(self.retain):
            raise DataError(f"the retain set of {self.name} is empty.", fix="Remove the retain set, or add rows to it.")
        retained = {(row.question, row.answer) for row in self.retain}
        if all((row.question, row.answer) in retained for row in self.forget):
            raise DataError(
                f"every forget row of {self.name} is also in its retain set, so nothing can be forgotten.",
                fix="Remove the forget rows from the retain set.",
            )


def make_set(name: str, rows: Sequence[Row]) -> RowSet:
    """Build a set from rows and check their answers and ids.

    Raises:
        DataError: A row has no answer, or two rows have the same id.
    """
    ids: set[str] = set()
    for index, row in enumerate(rows):
        if not row.answer.strip():
            raise DataError(
                f"row {index} of the set '{name}' (id {row.id}) has no answer.",
                fix="Every row needs an answer or, if it is plain text, a text.",
            )
        if row.id in ids:
            raise DataError(f"two rows of the set '{name}' have the id {row.id}.", fix="Make the ids unique.")
        ids.add(row.id)
    return RowSet(name=name, rows=tuple(rows))


def data_hashes(sets: Sets) -> dict[str, str]:
    """Return the content hash of every set."""
    return {name: rows.hash for name, rows in named_sets(sets)}


def num_rows(sets: Sets) -> dict[str, int]:
    """Return the number of rows of every set."""
    return {name: len(rows) for name, rows in named_sets(sets)}


def named_sets(sets: Sets) -> list[tuple[str, RowSet]]:
    """Return the name and rows of every set that is not None; evaluation sets are named evaluation/<name>."""
    candidates = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout, "always": sets.always}
    named = [(name, rows) for name, rows in candidates.items() if rows is not None]
    return named + [(f"evaluation/{name}", rows) for name, rows in sets.evaluation.items()]
