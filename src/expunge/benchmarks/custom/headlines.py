"""Headlines and metrics of the benchmark `custom`, with intervals, from rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.membership import COMPARED, column_of
from expunge.benchmarks.shared.rows import in_set
from expunge.errors import IncompatibleError
from expunge.metrics.agreement import agreement_values
from expunge.metrics.bootstrap import cluster_bootstrap, weighted_mean
from expunge.metrics.fluency import perplexity, resampled_perplexity
from expunge.metrics.intervals import mean_interval
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

    def agreement(self) -> tuple[Value, Value]:
        """Compute the agreement of the forget rows' losses with the retain model's, and its paired version.

        It is forget quality (`agreement_values`) with mean losses in place of truth ratios.
        """
        if self.retain_model is None:
            missing = Value.missing(NEEDS_RETAIN_MODEL.replace("membership scores", "losses"))
            return missing, missing
        rows = in_set(self.rows, "forget")
        ours, theirs = column_of(rows, "nll"), column_of(in_set(self.retain_model, "forget"), "nll")
        present = ~(np.isnan(ours) | np.isnan(theirs))
        num_missing = int((~present).sum())
        if not present.any():
            needs = "losses of the forget rows under both models"
            missing = Value(point=None, n_missing=num_missing, needs=needs)
            return missing, missing
        return agreement_values(
            ours[present],
            theirs[present],
            [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present],
            f"mean losses of this and of the retain model on the same {int(present.sum())} forget rows (forget quality "
            "with losses in place of truth ratios)",
            resamples=self.resamples,
            seed=self.seed,
            num_missing=num_missing,
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
        value = Value(
            point=float(statistic(*values, np.ones((1, values.shape[1])))[0]),
            n=values.shape[1],
            n_missing=num_missing,
            how=how,
            better=better,
        )
        if statistic is weighted_mean and self.resamples:
            return mean_interval(values[0], groups).attach(value)
        resampled, bounds = functools.partial(statistic, *values), perplexity.spec.range
        return cluster_bootstrap(resampled, [groups], self.resamples, self.seed, bounds=bounds).attach(value)

    def _needs(self, rows: Sequence[SampleRow], column: str) -> str:
        if column not in _GENERATED:
            return "rows that fit into the model's context"
        if not any(row["question"] for row in rows):
            return "questions: plain text has no answer to generate"
        if any(row["generation"] is not None for row in rows) and column != SIMILARITY:
            return "generated answers of 4 words" if column == "repetition" else "answers with a letter or digit"
        return "answers that fit into the model's context" if self.generate else "generated answers (generate: true)"
