"""What every benchmark has: a plan of what to run on the model, and headlines from the per-sample records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from expunge.data.sets import RowSet, Sets
from expunge.errors import DataError
from expunge.records import Value

SampleRow = dict[str, Any]
"""One measured row: plain values only, so that it can be stored as Parquet."""


@dataclass(frozen=True)
class ScoreRequest:
    """Score `answer` after `question`: the probe returns the log-probability of each answer token."""

    set: str
    index: int
    """Position of the row in its set."""
    what: str
    """Which of the row's texts this is: 'answer', 'paraphrased' or 'perturbed/<k>'."""
    question: str
    answer: str


@dataclass(frozen=True)
class GenerationRequest:
    """Let the model answer `question`."""

    set: str
    index: int
    question: str
    max_new_tokens: int


@dataclass(frozen=True)
class Plan:
    """Everything that a benchmark asks of a model."""

    sets: Mapping[str, RowSet]
    score: Sequence[ScoreRequest] = ()
    generate: Sequence[GenerationRequest] = ()


@dataclass(frozen=True)
class Headlines:
    """Numbers computed from per-sample records."""

    headlines: dict[str, Value] = field(default_factory=dict)
    metrics: dict[str, Value] = field(default_factory=dict)


class Benchmark(BaseModel):
    """Base of all benchmarks; its fields are the benchmark's settings in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    paper: ClassVar[str] = ""
    _name: str = PrivateAttr(default="")

    def model_post_init(self, context: Any) -> None:
        """Remember the name under which a recipe asked for this benchmark."""
        self._name = (context or {}).get("name", "") or type(self).__module__.rsplit(".", 1)[-1]

    @property
    def name(self) -> str:
        """Name in recipes: the file's stem."""
        return self._name

    def spec(self) -> dict[str, Any]:
        """Settings as a recipe writes them."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def plan(self, sets: Sets) -> Plan:
        """What to score and generate on these sets."""
        raise NotImplementedError

    def rows(
        self,
        plan: Plan,
        scores: Mapping[tuple[str, int, str], Sequence[float]],
        generations: Mapping[tuple[str, int], str],
    ) -> list[SampleRow]:
        """Join what the probes returned into one record per row.

        Args:
            plan: The plan that was run.
            scores: (set, index, what) -> log-probability of each answer token, end-of-sequence included.
            generations: (set, index) -> generated text.
        """
        raise NotImplementedError

    def headlines(
        self, rows: Sequence[SampleRow], reference: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Metrics with intervals; a number that needs the absent reference says so."""
        raise NotImplementedError

    def check_reference(
        self,
        rows: Sequence[SampleRow],
        reference: Sequence[SampleRow],
        settings: Mapping[str, Any],
        reference_settings: Mapping[str, Any],
    ) -> None:
        """Refuse a reference that was measured on other rows or in another way.

        Raises:
            IncompatibleError: What differs.
        """

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Per-sample rows and settings of a stored evaluation.

        Raises:
            DataError: This benchmark reads no stored files, or this file is none of those that it reads.
        """
        raise DataError(
            f"the benchmark {self.name} reads no stored evaluations.", fix=f"Give a model instead of {path}."
        )
