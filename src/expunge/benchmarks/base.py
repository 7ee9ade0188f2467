"""Base of all benchmarks: a plan of what to run on the model, metrics from per-sample records, and a judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.config.members import Member
from expunge.data.sets import RowSet, Sets
from expunge.errors import DataError
from expunge.probes.requests import GenerationRequest, Key, ScoreRequest, TokenScores
from expunge.records import Axes, BenchmarkResult, Judgement, Label, Section, Value

if TYPE_CHECKING:
    from expunge.probes.session import Session

__all__ = [
    "Benchmark",
    "GenerationRequest",
    "Headlines",
    "Key",
    "Measurement",
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


@dataclass(frozen=True)
class Measurement:
    """The result of one benchmark on one model, with the per-sample records that it was computed from."""

    result: BenchmarkResult
    rows: Sequence[SampleRow]

    def value(self, name: str) -> Value:
        """Return a headline or metric; missing where the benchmark does not report it."""
        numbers = {**self.result.metrics, **self.result.headlines}
        return numbers.get(name, Value.missing(f"{name}, which this measurement does not report"))


class Benchmark(Member):
    """Base of all benchmarks; its fields are the benchmark's settings in YAML."""

    title: ClassVar[str] = ""
    """Name in texts, such as 'TOFU'; empty for the name in recipes."""
    needs_sets: ClassVar[bool] = True
    """Whether it measures the recipe's data; False for benchmarks that bring their own questions."""
    judgement_settings: ClassVar[frozenset[str]] = frozenset()
    """Names of fields that change the judgement only: measurements with other values of them are the same."""

    def labels(self) -> Mapping[str, Label]:
        """Return the presentation of every headline, in the order of reports."""
        return {}

    def metric_labels(self) -> Mapping[str, Label]:
        """Return the presentation of metrics by the last part of their name, such as 'probability'."""
        return {}

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows, from which `evaluate.metrics` are computed.

        Returns:
            Empty by default: not declared. A metric that needs other columns is then found after the first
            measurement, and not when the recipe is checked.
        """
        return ()

    def axes(self) -> Axes | None:
        """Return the metrics for plots of forgetting against utility; None where one of the two is not measured."""
        return None

    def sections(self) -> Sequence[Section]:
        """Return the tables and plots of per-sample records that a report shows."""
        return ()

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude from the measurements whether the model forgot and whether it kept the rest.

        Args:
            target: The model before unlearning; None where it was not measured.
            unlearned: The model after unlearning.
            retain: The model that never saw the forget set; None without one.
            seed: Seed of bootstrap intervals.

        Returns:
            By default a judgement without conclusions: the benchmark only reports its metrics.
        """
        return Judgement(benchmark=self.key, title=self.title or self.key)

    def measured_settings(self) -> dict[str, Any]:
        """Return the settings that identify a measurement."""
        return {key: value for key, value in self.spec().items() if key not in self.judgement_settings}

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
