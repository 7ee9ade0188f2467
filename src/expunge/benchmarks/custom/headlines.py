"""Numbers of the benchmark `custom` with their intervals, from rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.membership import COMPARED, column_of
from expunge.benchmarks.shared.rows import in_set
from expunge.errors import IncompatibleError
from expunge.metrics.agreement import forget_quality, ks_test, resampled_forget_quality
from expunge.metrics.fluency import resampled_perplexity
from expunge.metrics.intervals import cluster_bootstrap, weighted_mean
from expunge.metrics.privleak import NEEDS_RETAIN_MODEL
from expunge.metrics.rouge import word_rule
from expunge.metrics.separation import NEEDS_HOLDOUT
from expunge.records import Value

Floats = NDArray[np.float64]

SETS = ("forget", "retain", "holdout")
SIMILARITY = "semantic_similarity"
FLUENCY = ("generated_logp", "generated_tokens")
"""Columns of what a further model thinks of the generated answers."""

_MEANS = {
    "probability": "mean length-normalised probability of the answer",
    "extraction_strength": "mean share of the answer (or text) that the model completes word for word by itself",
    "exact_memorization": "mean share of tokens that the model would have chosen in their place",
    "rouge_l_recall": "mean ROUGE-L recall of generated answers",
    "rouge_l_f1": "mean ROUGE-L F1 of generated answers",
    "repetition": "mean share of 4-grams of a generated answer that it has had before",
    SIMILARITY: "mean cosine between the embeddings of the right and the generated answer",
}
_GENERATED = ("rouge_l_recall", "rouge_l_f1", "repetition", SIMILARITY)
_BETTER = {"forget": "lower", "retain": "higher", "holdout": ""}
_LACKING = {"retain": "a retain set: data.retain=...", "holdout": NEEDS_HOLDOUT}


def paired(rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> list[SampleRow]:
    """The retain model's record of each forget and holdout row, in the order of the rows.

    Raises:
        IncompatibleError: The retain model has not measured one of them, or another text under its name.
    """
    known = {(row["set"], row["id"]): row for row in retain_model}
    found = []
    for row in rows:
        if row["set"] not in COMPARED:
            continue
        other = known.get((row["set"], row["id"]))
        if other is None or (row["question"], row["answer"]) != (other["question"], other["answer"]):
            lacking = "has no" if other is None else "has another"
            raise IncompatibleError(
                f"the retain model {lacking} {row['set']} row {row['id']}, so it was measured on other rows.",
                fix="Measure it on the same data with the same limit and piece_characters.",
            )
        found.append(other)
    return found


@dataclass(frozen=True)
class CustomHeadlines:
    """How numbers are made from rows."""

    rows: Sequence[SampleRow]
    retain_model: Sequence[SampleRow] | None
    """As `paired` returns it."""
    generate: bool
    """Whether answers were meant to be generated; decides what a missing ROUGE asks for."""
    resamples: int
    seed: int

    def of_set(self, name: str) -> dict[str, Value]:
        """Every number of one set by itself."""
        embedded = any(SIMILARITY in row for row in self.rows)
        parts = [part for part in _MEANS if embedded or part != SIMILARITY]
        found = {**{part: self.mean(name, part) for part in parts}, "perplexity": self.perplexity(name)}
        if any(FLUENCY[0] in row for row in self.rows):
            how = "perplexity per token of generated answers under the model named by fluency_model"
            found["fluency_perplexity"] = self._value(name, list(FLUENCY), resampled_perplexity, how, "lower")
        return found

    def mean(self, name: str, part: str) -> Value:
        """Mean of a column over one set; rows without a value are counted as missing."""
        better = "lower" if part == "repetition" else _BETTER[name]
        how = _MEANS[part]
        if part.startswith("rouge"):
            how += word_rule([row["answer"] for row in in_set(self.rows, name) if row["generation"] is not None])
        return self._value(name, [part], weighted_mean, how, better)

    def perplexity(self, name: str) -> Value:
        """Perplexity per token of one set."""
        better = "lower" if name == "retain" else ""
        how = "perplexity per token of answers (or texts)"
        return self._value(name, ["logp", "num_tokens"], resampled_perplexity, how, better)

    def agreement(self) -> Value:
        """Whether the losses of the forget rows could come from the retain model: a Kolmogorov-Smirnov test."""
        if self.retain_model is None:
            return Value.missing(NEEDS_RETAIN_MODEL.replace("membership scores", "losses"))
        own, others = in_set(self.rows, "forget"), in_set(self.retain_model, "forget")
        ours, theirs = column_of(own, "nll"), column_of(others, "nll")
        present = _complete(np.stack([ours, theirs]))
        num_missing = int((~present).sum())
        if not present.any():
            return Value(point=None, n_missing=num_missing, needs="losses of the forget rows under both models")
        ours, theirs = ours[present], theirs[present]
        test = ks_test(ours, theirs)
        groups = [row["group"] for row, keep in zip(own, present, strict=True) if keep]
        interval, words = self._interval(lambda weights: resampled_forget_quality(ours, theirs, weights), groups)
        return Value(
            point=test.pvalue,
            low=interval[0],
            high=interval[1],
            n=len(ours),
            n_missing=num_missing,
            how="p-value of a two-sided Kolmogorov-Smirnov test between the mean losses of this and of the retain-only "
            f"model on the same {len(ours)} forget rows (forget quality with losses in place of truth ratios); {words}",
            better=forget_quality.spec.better,
            extra={"log10": test.log10_pvalue, "ks": test.statistic},
        )

    def _value(self, name: str, columns: list[str], statistic: Callable[..., Floats], how: str, better: str) -> Value:
        own = in_set(self.rows, name)
        if not own:
            return Value.missing(_LACKING.get(name, f"the {name} set"))
        table = np.stack([column_of(own, column) for column in columns])
        present = _complete(table)
        num_missing = int((~present).sum())
        if not present.any():
            return Value(point=None, n_missing=num_missing, needs=self._needs(own, columns[0]))
        kept = table[:, present]
        groups = [row["group"] for row, keep in zip(own, present, strict=True) if keep]
        interval, words = self._interval(lambda weights: statistic(*kept, weights), groups)
        return Value(
            point=float(statistic(*kept, np.ones((1, kept.shape[1])))[0]),
            low=interval[0],
            high=interval[1],
            n=kept.shape[1],
            n_missing=num_missing,
            how=f"{how}; {words}",
            better=better,
        )

    def _needs(self, rows: Sequence[SampleRow], column: str) -> str:
        if column not in _GENERATED:
            return "rows that fit into the model's context"
        if not any(row["question"] for row in rows):
            return "questions: plain text has no answer to generate"
        if any(row["generation"] is not None for row in rows) and column != SIMILARITY:
            return "generated answers of 4 words" if column == "repetition" else "answers with a letter or digit"
        return "answers that fit into the model's context" if self.generate else "generated answers (generate: true)"

    def _interval(
        self, statistic: Callable[[Floats], Floats], groups: Sequence[Hashable]
    ) -> tuple[tuple[float | None, float | None], str]:
        interval = cluster_bootstrap(statistic, [groups], self.resamples, self.seed)
        if interval is None:
            return (None, None), "no interval"
        words = f"95% percentile interval of {self.resamples} bootstrap draws of whole groups"
        return interval, f"{words} ({len(set(groups))} groups)"


def _complete(table: Floats) -> NDArray[np.bool_]:
    """Which rows have a value in every column; the table has one column of numbers per line."""
    return np.asarray(~np.isnan(table).any(axis=0), dtype=np.bool_)
