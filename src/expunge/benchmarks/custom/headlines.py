"""Headlines and metrics of the benchmark `custom`, with intervals, from rows."""

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
"""Columns of the fluency model: log-probability and number of tokens of the generated answer."""

_MEANS = {
    "probability": "mean length-normalised probability of the answer",
    "extraction_strength": "mean share of the answer (or text) that the model completes word for word",
    "exact_memorization": "mean share of tokens that the model ranks first",
    "rouge_l_recall": "mean ROUGE-L recall of generated answers",
    "rouge_l_f1": "mean ROUGE-L F1 of generated answers",
    "repetition": "mean share of 4-grams of a generated answer that occurred in it before",
    SIMILARITY: "mean cosine between the embeddings of the true and the generated answer",
}
_GENERATED = ("rouge_l_recall", "rouge_l_f1", "repetition", SIMILARITY)
_BETTER = {"forget": "lower", "retain": "higher", "holdout": ""}
_MISSING_SETS = {"retain": "a retain set: data.retain=...", "holdout": NEEDS_HOLDOUT}


def paired(rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> list[SampleRow]:
    """Return the retain model's record of each forget and holdout row, in the order of the rows.

    Raises:
        IncompatibleError: The retain model has not measured a row, or has another text under its id.
    """
    by_id = {(row["set"], row["id"]): row for row in retain_model}
    records = []
    for row in rows:
        if row["set"] not in COMPARED:
            continue
        record = by_id.get((row["set"], row["id"]))
        if record is None or (row["question"], row["answer"]) != (record["question"], record["answer"]):
            problem = "has no" if record is None else "has another"
            raise IncompatibleError(
                f"the retain model {problem} {row['set']} row {row['id']}, so it was measured on other rows.",
                fix="Measure it on the same data with the same limit and piece_characters.",
            )
        records.append(record)
    return records


@dataclass(frozen=True)
class CustomHeadlines:
    """Computes the metrics of rows."""

    rows: Sequence[SampleRow]
    retain_model: Sequence[SampleRow] | None
    """As returned by `paired`."""
    generate: bool
    """Whether answers were to be generated; changes the reason for a missing ROUGE."""
    resamples: int
    seed: int

    def of_set(self, name: str) -> dict[str, Value]:
        """Return every metric of one set."""
        embedded = any(SIMILARITY in row for row in self.rows)
        metrics = {metric: self.mean(name, metric) for metric in _MEANS if embedded or metric != SIMILARITY}
        metrics["perplexity"] = self._value(
            name,
            ["logp", "num_tokens"],
            resampled_perplexity,
            "perplexity per token of answers (or texts)",
            "lower" if name == "retain" else "",
        )
        if any(FLUENCY[0] in row for row in self.rows):
            how = "perplexity per token of generated answers under the model named by fluency_model"
            metrics["fluency_perplexity"] = self._value(name, list(FLUENCY), resampled_perplexity, how, "lower")
        return metrics

    def mean(self, name: str, column: str) -> Value:
        """Compute the mean of a column over one set; rows without a value are counted as missing."""
        better = "lower" if column == "repetition" else _BETTER[name]
        how = _MEANS[column]
        if column.startswith("rouge"):
            how += word_rule([row["answer"] for row in in_set(self.rows, name) if row["generation"] is not None])
        return self._value(name, [column], weighted_mean, how, better)

    def agreement(self) -> Value:
        """Compute the p-value of a Kolmogorov-Smirnov test: could the forget rows' losses be the retain model's?"""
        if self.retain_model is None:
            return Value.missing(NEEDS_RETAIN_MODEL.replace("membership scores", "losses"))
        rows = in_set(self.rows, "forget")
        ours, theirs = column_of(rows, "nll"), column_of(in_set(self.retain_model, "forget"), "nll")
        present = ~(np.isnan(ours) | np.isnan(theirs))
        num_missing = int((~present).sum())
        if not present.any():
            return Value(point=None, n_missing=num_missing, needs="losses of the forget rows under both models")
        ours, theirs = ours[present], theirs[present]
        test = ks_test(ours, theirs)
        groups = [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present]
        interval, method = self._interval(lambda weights: resampled_forget_quality(ours, theirs, weights), groups)
        return Value(
            point=test.pvalue,
            low=interval[0],
            high=interval[1],
            n=len(ours),
            n_missing=num_missing,
            how="p-value of a two-sided Kolmogorov-Smirnov test between the mean losses of this and of the "
            f"retain model on the same {len(ours)} forget rows (forget quality with losses in place of truth ratios); "
            f"{method}",
            better=forget_quality.spec.better,
            extra={"log10": test.log10_pvalue, "ks": test.statistic},
        )

    def _value(self, name: str, columns: list[str], statistic: Callable[..., Floats], how: str, better: str) -> Value:
        rows = in_set(self.rows, name)
        if not rows:
            return Value.missing(_MISSING_SETS.get(name, f"the {name} set"))
        # Shape (columns, rows).
        table = np.stack([column_of(rows, column) for column in columns])
        present: NDArray[np.bool_] = np.asarray(~np.isnan(table).any(axis=0))
        num_missing = int((~present).sum())
        if not present.any():
            return Value(point=None, n_missing=num_missing, needs=self._needs(rows, columns[0]))
        values = table[:, present]
        groups = [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present]
        interval, method = self._interval(lambda weights: statistic(*values, weights), groups)
        return Value(
            point=float(statistic(*values, np.ones((1, values.shape[1])))[0]),
            low=interval[0],
            high=interval[1],
            n=values.shape[1],
            n_missing=num_missing,
            how=f"{how}; {method}",
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
        method = f"95% percentile interval of {self.resamples} bootstrap resamples of groups"
        return interval, f"{method} ({len(set(groups))} groups)"
