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
"""One measured row: plain values only, so that it can be stored as Parquet.

Every row has 'set', 'index' (position in the set) and 'group' (rows that depend on each other share one).
"""


@dataclass(frozen=True)
class Plan:
    """Rows that a benchmark measures, and the requests to a model that this takes."""

    sets: Mapping[str, RowSet]
    score: Sequence[ScoreRequest] = ()
    generate: Sequence[GenerationRequest] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts that identify the measurement beyond the settings, such as versions of tasks; recorded with them."""


@dataclass(frozen=True)
class Headlines:
    """Values computed from per-sample rows: headlines, which papers report, and secondary metrics."""

    headlines: dict[str, Value] = field(default_factory=dict)
    metrics: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """The result of one benchmark on one model, with its per-sample rows."""

    result: BenchmarkResult
    rows: Sequence[SampleRow]

    def value(self, name: str) -> Value:
        """Return a headline or metric; missing where the benchmark does not report it."""
        values = {**self.result.metrics, **self.result.headlines}
        return values.get(name, Value.missing(f"{name}, which this measurement does not report"))


class Benchmark(Member):
    """Base of all benchmarks; its fields are the benchmark's settings in YAML."""

    title: ClassVar[str] = ""
    """Name in texts, such as 'TOFU'; empty for the name in recipes."""
    needs_sets: ClassVar[bool] = True
    """Whether it measures the recipe's data; False for benchmarks that bring their own questions."""
    judgement_settings: ClassVar[frozenset[str]] = frozenset()
    """Names of fields that only the judgement uses, so that they do not identify a measurement."""

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
        """Return the metrics for plots of forgetting against utility; None if one of the two is not measured."""
        return None

    def sections(self) -> Sequence[Section]:
        """Return the tables and plots of per-sample records that a report shows."""
        return ()

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude from the measurements whether the model forgot and whether it preserved the rest.

        Args:
            target: The model before unlearning; None if it was not measured.
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
        """Return the rows to measure, and the texts to score and generate."""
        raise NotImplementedError

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Run the plan on a model and return the per-sample rows.

        Benchmarks whose questions depend on earlier answers override it.
        """
        scores = session.score(plan.score)
        return self.rows(plan, scores, session.generate(plan.generate, scores))

    def rows(self, plan: Plan, scores: Mapping[Key, TokenScores], generations: Mapping[Key, str]) -> list[SampleRow]:
        """Join scores and generations into one record per row.

        Args:
            plan: The plan that was run.
            scores: (set, index, request) -> scores of each answer token, end-of-sequence included; a text longer than
                the model's context has none.
            generations: (set, index, request) -> generated text.
        """
        raise NotImplementedError

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute headlines and metrics with intervals; `Value.missing` for what cannot be computed.

        Args:
            rows: Rows of this model.
            retain_model: Rows of the retain model; None without one.
            resamples: Bootstrap resamples for intervals; 0 for none.
            seed: Seed of the bootstrap.

        Raises:
            IncompatibleError: The retain model was measured on other rows.
        """
        raise NotImplementedError

    def check_retain_model(
        self,
        rows: Sequence[SampleRow],
        retain_model: Sequence[SampleRow],
        settings: Mapping[str, Any],
        retain_settings: Mapping[str, Any],
    ) -> None:
        """Raise if the retain model was measured on other rows or in another way.

        Raises:
            IncompatibleError: The difference.
        """
        self.compare_settings(settings, retain_settings)
        self.compare_rows(rows, retain_model)

    def compare_settings(self, settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
        """Raise if the retain model was measured in another way; by default every way is accepted."""

    def compare_rows(self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> None:
        """Raise if the retain model was measured on other rows; by default all rows are accepted."""

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Return per-sample rows and settings of a stored evaluation.

        Raises:
            DataError: This benchmark reads no stored evaluations, or the file is not one that it reads.
        """
        raise DataError(
            f"the benchmark {self.name} reads no stored evaluations.", fix=f"Give a model instead of {path}."
        )
