"""Rows of questions and answers (or plain text), and the sets that an experiment is made of."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from expunge.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its answer, or, where `question` is empty, one piece of plain text in `answer`."""

    id: str
    """Unique inside its data set and stable between runs, such as 'forget10/12'."""
    question: str
    answer: str
    group: str
    """What rows have in common that makes them dependent: a person, an article. Intervals resample groups."""
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()
    """Wrong answers of the same kind and form."""
    topic: str = ""
    """Part of the forget set that the row belongs to, for methods that treat topics one at a time."""
    max_tokens: int | None = None
    """Plain text only: where its source wants longer texts cut."""


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
        """Content hash: equal rows in equal order give equal hashes, whatever the set is called."""
        digest = hashlib.sha256()
        for row in self.rows:
            unset = {"id"} | {name for name in ("topic", "max_tokens") if not getattr(row, name)}
            content = {key: value for key, value in asdict(row).items() if key not in unset}
            digest.update(json.dumps(content, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Sets:
    """Everything that an experiment trains on and is measured on."""

    name: str
    """Which data this is, such as 'tofu/forget10': records of different data are never compared."""
    forget: RowSet
    retain: RowSet | None
    holdout: RowSet | None = None
    always: RowSet | None = None
    """Rows that target and reference both learn besides forget and retain: background knowledge of a model that
    is built from nothing."""
    evaluation: dict[str, RowSet] = field(default_factory=dict)
    """Sets that benchmarks measure: for TOFU forget, retain, real_authors and world_facts."""
    sensitive: bool = False
    """The forget texts are harmful themselves: no text goes into a record or a report."""

    def check(self) -> None:
        """Refuse sets on which unlearning has no meaning.

        Raises:
            DataError: The forget set is empty, or every forget row also stands in the retain set.
        """
        if not len(self.forget):
            raise DataError(f"the forget set of {self.name} is empty.", fix="Name what the model should forget.")
        if self.retain is None:
            return
        if not len(self.retain):
            raise DataError(f"the retain set of {self.name} is empty.", fix="Leave it out, or give it rows.")
        kept = {(row.question, row.answer) for row in self.retain}
        if all((row.question, row.answer) in kept for row in self.forget):
            raise DataError(
                f"every forget row of {self.name} also stands in its retain set, so nothing can be forgotten.",
                fix="Remove the forget rows from the retain set.",
            )


def make_set(name: str, rows: Sequence[Row]) -> RowSet:
    """Build a set, refusing rows that cannot be trained on.

    Raises:
        DataError: A row has no answer, or two rows share an id.
    """
    seen: set[str] = set()
    for position, row in enumerate(rows):
        if not row.answer.strip():
            raise DataError(
                f"row {position} of the set '{name}' (id {row.id}) has no answer.",
                fix="Every row needs an answer (or, for plain text, text).",
            )
        if row.id in seen:
            raise DataError(f"two rows of the set '{name}' have the id {row.id}.")
        seen.add(row.id)
    return RowSet(name=name, rows=tuple(rows))


def data_hashes(sets: Sets) -> dict[str, str]:
    """Content hash of every set."""
    return {name: rows.hash for name, rows in _named(sets)}


def num_rows(sets: Sets) -> dict[str, int]:
    """Rows of every set."""
    return {name: len(rows) for name, rows in _named(sets)}


def _named(sets: Sets) -> list[tuple[str, RowSet]]:
    base = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout, "always": sets.always}
    found = [(name, rows) for name, rows in base.items() if rows is not None]
    return found + [(f"evaluation/{name}", rows) for name, rows in sets.evaluation.items()]
