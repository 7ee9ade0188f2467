"""What every benchmark has: a plan of what to run on the model, and headlines from the per-sample records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.config.members import Member
from expunge.data.sets import RowSet, Sets
from expunge.errors import DataError
from expunge.probes.requests import GenerationRequest, Key, ScoreRequest, TokenScores
from expunge.records import Value

if TYPE_CHECKING:
    from expunge.probes.session import Session

__all__ = [
    "Benchmark",
    "GenerationRequest",
    "Headlines",
    "Key",
    "Plan",
    "SampleRow",
    "ScoreRequest",
    "TokenScores",
]

SampleRow = dict[str, Any]
"""One measured row: plain values only, so that it can be stored as Parquet."""


@dataclass(frozen=True)
class Plan:
    """Everything that a benchmark asks of a model."""

    sets: Mapping[str, RowSet]
    score: Sequence[ScoreRequest] = ()
    generate: Sequence[GenerationRequest] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else identifies the measurement, such as the versions of tasks; recorded with the settings."""


@dataclass(frozen=True)
class Headlines:
    """Numbers computed from per-sample records."""

    headlines: dict[str, Value] = field(default_factory=dict)
    metrics: dict[str, Value] = field(default_factory=dict)


class Benchmark(Member):
    """Base of all benchmarks; its fields are the benchmark's settings in YAML."""

    needs_sets: ClassVar[bool] = True
    """Whether it measures the recipe's own data; False for benchmarks that bring their questions along."""

    def plan(self, sets: Sets) -> Plan:
        """What to score and generate on these sets."""
        raise NotImplementedError

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Ask the model what the plan says; benchmarks whose questions depend on earlier answers do it themselves."""
        scores = session.score(plan.score)
        return self.rows(plan, scores, session.generate(plan.generate, scores))

    def rows(self, plan: Plan, scores: Mapping[Key, TokenScores], generations: Mapping[Key, str]) -> list[SampleRow]:
        """Join what the probes returned into one record per row.

        Args:
            plan: The plan that was run.
            scores: (set, index, what) -> what one pass says of each answer token, end-of-sequence included; a text
                that is longer than the model's context is not in it.
            generations: (set, index, what) -> generated text.
        """
        raise NotImplementedError

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute headlines and metrics with intervals; what cannot be computed is `Value.missing`."""
        raise NotImplementedError

    def check_retain_model(
        self,
        rows: Sequence[SampleRow],
        retain_model: Sequence[SampleRow],
        settings: Mapping[str, Any],
        retain_settings: Mapping[str, Any],
    ) -> None:
        """Refuse a retain model that was measured on other rows or in another way.

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
