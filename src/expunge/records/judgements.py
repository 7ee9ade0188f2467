"""Judgements: what a benchmark concludes about a run, and what a report needs to present its results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expunge.records.base import Record

Outcome = Literal["yes", "partly", "no", "inconclusive"]


class Label(Record):
    """Presentation of one metric."""

    title: str
    """Title in tables and plots, such as 'Forget quality'."""
    explain: str = ""
    """One line for readers who do not know the metric."""
    unit: str = ""
    """Unit; empty for a plain ratio."""
    better: Literal["higher", "lower", "retain", ""] = ""
    """Direction: 'retain' means closer to the retain model; empty where neither direction is better."""
    needs_retain_model: bool = False
    """Whether the metric can be computed only with a retain model."""


class Axes(Record):
    """The two metrics that a plot of forgetting against utility shows."""

    forget: str
    """Headline or metric on the forgetting axis."""
    forget_fallback: str = ""
    """Metric on the forgetting axis where the first one cannot be computed, such as without a retain model."""
    utility: str
    """Headline or metric on the utility axis."""
    forget_limit: float | None = None
    """Value of the forgetting metric from which a model counts as forgotten."""


class Section(Record):
    """A table or plot of per-sample records in a report, described by the columns that it reads."""

    kind: Literal["answers", "completions", "distribution"]
    """'answers': questions with true and generated answers of each model. 'completions': passages that each model
    continues. 'distribution': empirical distribution of one column for each model."""
    title: str
    lead: str = ""
    """Paragraph above the table."""
    set: str
    """Value of the column 'set' of the rows that are shown."""
    order: Literal["remaining", "lost"] = "remaining"
    """Answers only: highest remaining score first, or largest loss against the target first."""
    question: str = "question"
    """Column of the question or prompt."""
    answer: str = "answer"
    """Column of the true answer or continuation."""
    response: str = "generation"
    """Column of the generated text."""
    score: str = "rouge_l_recall"
    """Column of the generated text's score, between 0 and 1."""
    score_title: str = "ROUGE-L"
    value: str = ""
    """Distribution only: the column that is plotted."""


class Conclusion(Record):
    """Conclusion about one side of a run: whether it forgot, or whether it kept the rest."""

    outcome: Outcome
    phrase: str
    """Part of the verdict's sentence, such as 'Forgotten, at chance' or 'utility kept'."""


class Judgement(Record):
    """Conclusions of one benchmark about a run."""

    benchmark: str
    title: str
    """Name of the benchmark in texts, such as 'TOFU'."""
    forgetting: Conclusion | None = None
    """None where the benchmark does not measure forgetting."""
    utility: Conclusion | None = None
    """None where the benchmark does not measure what should be kept."""
    metrics: str = ""
    """The decisive metrics in one line, with their values before unlearning."""
    reasons: list[str] = Field(default_factory=list)
    """The facts that the findings follow from."""
    rules: list[str] = Field(default_factory=list)
    """The rules in words."""
    limits: list[str] = Field(default_factory=list)
    """Limitations: conclusions that this benchmark does not support."""


class Verdict(Record):
    """The verdict of a run, combined from the judgements of all its benchmarks."""

    forgot: bool | None
    """None where the judgements do not support a conclusion."""
    kept: bool | None
    sentence: str
    reasons: list[str] = Field(default_factory=list)
    judgements: list[Judgement] = Field(default_factory=list)
