"""Forget quality, model utility and their components, with intervals, from rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.tofu.rows import COMPONENTS, UTILITY_SETS, Mean, component, truth_ratios
from expunge.metrics.agreement import agreement_values, model_utility
from expunge.metrics.bootstrap import cluster_bootstrap, weighted_mean
from expunge.metrics.intervals import Interval, mean_interval
from expunge.metrics.rouge import word_rule
from expunge.records import Value

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TofuHeadlines:
    """Computes TOFU's headlines and components from rows."""

    mean_name: Mean
    """Mean over the wrong answers in the truth ratio."""
    generate: bool
    """Whether answers were to be generated; changes the reason for a missing ROUGE."""
    resamples: int
    """Bootstrap resamples for intervals; 0 for none."""
    seed: int

    def mean(self, rows: Sequence[SampleRow], name: str, metric: str) -> Value:
        """Compute the mean of one component over one set; rows that could not be scored are counted as missing."""
        set_rows = in_set(rows, name)
        if not set_rows:
            return Value.missing(f"the evaluation set {name}")
        values = component(set_rows, metric, name, self.mean_name)
        present = ~np.isnan(values)
        if not present.any():
            return Value(point=None, n_missing=len(set_rows), needs=self._needs(metric, name, set_rows))
        value = Value(
            point=float(values[present].mean()),
            n=int(present.sum()),
            n_missing=int((~present).sum()),
            how=f"{self._describe(metric, name)}{_word_rule(set_rows, metric)}",
            better="retain" if name == "forget" else "higher",
        )
        if not self.resamples:
            return Interval.missing().attach(value)
        return mean_interval(values[present], _groups(set_rows, present)).attach(value)

    def utility(self, rows: Sequence[SampleRow]) -> Value:
        """Compute model utility; a resample of a set serves its three components, sets are resampled separately."""
        tables: list[list[Floats]] = []
        groups: list[list[Hashable]] = []
        missing: list[str] = []
        for name in UTILITY_SETS:
            set_rows = in_set(rows, name)
            tables.append([component(set_rows, metric, name, self.mean_name) for metric in COMPONENTS])
            groups.append([row["group"] for row in set_rows])
            missing += [
                self._needs(metric, name, set_rows) if set_rows else f"the evaluation set {name}"
                for metric, column in zip(COMPONENTS, tables[-1], strict=True)
                if np.isnan(column).all()
            ]
        if missing:
            return Value.missing("; ".join(dict.fromkeys(missing)))

        def statistic(*weights: Floats) -> Floats:
            pairs = zip(tables, weights, strict=True)
            means = [weighted_mean(column, weight) for table, weight in pairs for column in table]
            return model_utility(np.stack(means, axis=-1))

        incomplete = sum(int(np.isnan(np.stack(table)).any(axis=0).sum()) for table in tables)
        value = Value(
            point=float(model_utility([np.nanmean(column) for table in tables for column in table])),
            n=sum(len(set_groups) for set_groups in groups) - incomplete,
            n_missing=incomplete,
            how="harmonic mean of probability, ROUGE-L recall and truth ratio on retain, real authors and "
            f"world facts ({self.mean_name} truth ratio)",
            better=model_utility.spec.better,
        )
        bounds = model_utility.spec.range
        return cluster_bootstrap(statistic, groups, self.resamples, self.seed, bounds=bounds).attach(value)

    def quality(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow], subset: str = ""
    ) -> tuple[Value, Value]:
        """Compute forget quality and its paired version (`agreement_values`).

        Args:
            rows: Forget rows of the model.
            retain_model: The same rows, in the same order, of the retain model.
            subset: Description of the rows if they are not all, for `how`.
        """
        ours, theirs = truth_ratios(rows, self.mean_name), truth_ratios(retain_model, self.mean_name)
        present = ~(np.isnan(ours) | np.isnan(theirs))
        num_missing = int((~present).sum())
        if not present.any():
            needs = "truth ratios of the forget rows under both models"
            missing = Value(point=None, n_missing=num_missing, needs=needs)
            return missing, missing
        return agreement_values(
            ours[present],
            theirs[present],
            _groups(rows, present),
            f"truth ratios of this and of the retain model on the same {int(present.sum())} forget rows{subset} "
            f"({self.mean_name} truth ratio)",
            resamples=self.resamples,
            seed=self.seed,
            num_missing=num_missing,
        )

    def _needs(self, metric: str, name: str, rows: Sequence[SampleRow]) -> str:
        if metric == "rouge_l_recall" and any(row.get("generation") is not None for row in rows):
            return f"answers with a letter or digit on {name}"
        if metric == "rouge_l_recall":
            return f"ROUGE on {name}" if self.generate else "ROUGE: generated answers (generate: true)"
        return f"scores of {'answers' if metric == 'probability' else 'right and wrong answers'} on {name}"

    def _describe(self, metric: str, name: str) -> str:
        if metric == "rouge_l_recall":
            return "mean ROUGE-L recall of generated answers"
        if metric == "truth_ratio":
            formula = "min(R, 1/R)" if name == "forget" else "max(0, 1 - R)"
            return f"mean of {formula}, R the {self.mean_name} truth ratio"
        if name in ("real_authors", "world_facts"):
            return "mean probability of the answer among its wrong variants, each length-normalised"
        return "mean length-normalised probability of the answer"


def _word_rule(rows: Sequence[SampleRow], metric: str) -> str:
    answers = [row["answer"] for row in rows if row.get("generation") is not None]
    return word_rule(answers) if metric == "rouge_l_recall" else ""


def _groups(rows: Sequence[SampleRow], present: NDArray[np.bool_]) -> list[Hashable]:
    return [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present]
