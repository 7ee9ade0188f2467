"""Numbers of TOFU with their intervals, from rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.tofu.rows import COMPONENTS, UTILITY_SETS, Mean, component, truth_ratios
from expunge.metrics.agreement import forget_quality, ks_test, model_utility, resampled_forget_quality
from expunge.metrics.intervals import Interval, cluster_bootstrap, mean_interval, weighted_mean
from expunge.metrics.rouge import word_rule
from expunge.records import Value

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TofuHeadlines:
    """How numbers are made from rows."""

    mean_name: Mean
    """Mean over the wrong answers in the truth ratio."""
    generate: bool
    """Whether answers were meant to be generated; decides what a missing ROUGE asks for."""
    resamples: int
    """Bootstrap resamples for intervals; 0 for none."""
    seed: int

    def mean(self, rows: Sequence[SampleRow], name: str, part: str) -> Value:
        """Mean of one component over one set; rows that could not be scored are counted as missing."""
        own = in_set(rows, name)
        if not own:
            return Value.missing(f"the evaluation set {name}")
        values = component(own, part, name, self.mean_name)
        present = ~np.isnan(values)
        if not present.any():
            return Value(point=None, n_missing=len(own), needs=self._needs(part, name, own))
        groups = _groups(own, present)
        interval = mean_interval(values[present], groups, self.resamples, self.seed)
        low, high = interval or (None, None)
        return Value(
            point=float(values[present].mean()),
            low=low,
            high=high,
            n=int(present.sum()),
            n_missing=int((~present).sum()),
            how=f"{self._describe(part, name)}{_word_rule(own, part)}; {self._interval(interval, groups)}",
            better="retain" if name == "forget" else "higher",
        )

    def utility(self, rows: Sequence[SampleRow]) -> Value:
        """Model utility; a draw of the bootstrap serves all three numbers of a set, sets are drawn apart."""
        tables: list[list[Floats]] = []
        groups: list[list[Hashable]] = []
        lacking: list[str] = []
        for name in UTILITY_SETS:
            own = in_set(rows, name)
            tables.append([component(own, part, name, self.mean_name) for part in COMPONENTS])
            groups.append([row["group"] for row in own])
            lacking += [
                self._needs(part, name, own) if own else f"the evaluation set {name}"
                for part, column in zip(COMPONENTS, tables[-1], strict=True)
                if np.isnan(column).all()
            ]
        if lacking:
            return Value.missing("; ".join(dict.fromkeys(lacking)))

        def statistic(*weights: Floats) -> Floats:
            pairs = zip(tables, weights, strict=True)
            means = [weighted_mean(column, weight) for table, weight in pairs for column in table]
            return model_utility(np.stack(means, axis=-1))

        interval = cluster_bootstrap(statistic, groups, self.resamples, self.seed)
        low, high = interval or (None, None)
        incomplete = sum(int(np.isnan(np.stack(table)).any(axis=0).sum()) for table in tables)
        return Value(
            point=float(model_utility([np.nanmean(column) for table in tables for column in table])),
            low=low,
            high=high,
            n=sum(len(own) for own in groups) - incomplete,
            n_missing=incomplete,
            how="harmonic mean of probability, ROUGE-L recall and truth ratio on retain, real authors and "
            f"world facts ({self.mean_name} truth ratio); {self._interval(interval, *groups)}",
            better=model_utility.spec.better,
        )

    def quality(self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow], where: str = "") -> Value:
        """Forget quality, with log10 of the p-value and the distance D beside it.

        Args:
            rows: Forget rows of the model.
            retain_model: The same rows, in the same order, of the retain model.
            where: Which rows these are, in words, where they are not all.
        """
        ours, theirs = truth_ratios(rows, self.mean_name), truth_ratios(retain_model, self.mean_name)
        present = ~(np.isnan(ours) | np.isnan(theirs))
        num_missing = int((~present).sum())
        if not present.any():
            needs = "truth ratios of the forget rows under both models"
            return Value(point=None, n_missing=num_missing, needs=needs)
        ours, theirs = ours[present], theirs[present]
        groups = _groups(rows, present)
        test = ks_test(ours, theirs)
        interval = cluster_bootstrap(
            lambda weights: resampled_forget_quality(ours, theirs, weights),
            [groups],
            self.resamples,
            self.seed,
        )
        low, high = interval or (None, None)
        return Value(
            point=test.pvalue,
            low=low,
            high=high,
            n=len(ours),
            n_missing=num_missing,
            how="p-value of a two-sided Kolmogorov-Smirnov test between the truth ratios of this and of the "
            f"retain model on the same {len(ours)} forget rows{where} ({self.mean_name} truth ratio); "
            f"{self._interval(interval, groups)}",
            better=forget_quality.spec.better,
            extra={"log10": test.log10_pvalue, "ks": test.statistic},
        )

    def _needs(self, part: str, name: str, rows: Sequence[SampleRow]) -> str:
        if part == "rouge_l_recall" and any(row.get("generation") is not None for row in rows):
            return f"answers with a letter or digit on {name}"
        if part == "rouge_l_recall":
            return f"ROUGE on {name}" if self.generate else "ROUGE: generated answers (generate: true)"
        return f"scores of {'answers' if part == 'probability' else 'right and wrong answers'} on {name}"

    def _describe(self, part: str, name: str) -> str:
        if part == "rouge_l_recall":
            return "mean ROUGE-L recall of generated answers"
        if part == "truth_ratio":
            shape = "min(R, 1/R)" if name == "forget" else "max(0, 1 - R)"
            return f"mean of {shape}, R the {self.mean_name} truth ratio"
        if name in ("real_authors", "world_facts"):
            return "mean probability of the answer among its wrong variants, each length-normalised"
        return "mean length-normalised probability of the answer"

    def _interval(self, interval: Interval | None, *groups: Sequence[Hashable]) -> str:
        if interval is None:
            return "no interval"
        sizes = " + ".join(str(len(set(sample))) for sample in groups)
        return f"95% percentile interval of {self.resamples} bootstrap draws of whole groups ({sizes} groups)"


def _word_rule(rows: Sequence[SampleRow], part: str) -> str:
    answers = [row["answer"] for row in rows if row.get("generation") is not None]
    return word_rule(answers) if part == "rouge_l_recall" else ""


def _groups(rows: Sequence[SampleRow], present: NDArray[np.bool_]) -> list[Hashable]:
    return [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present]
