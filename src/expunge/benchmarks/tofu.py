"""TOFU: forget quality against a retain-only model, and model utility on what should be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from expunge.benchmarks._base import (
    Benchmark,
    GenerationRequest,
    Headlines,
    Plan,
    SampleRow,
    ScoreRequest,
)
from expunge.benchmarks._tofu_rows import (
    COMPONENTS,
    SETS,
    UTILITY_SETS,
    Mean,
    check_reference,
    component,
    in_set,
    row_truth_ratio,
    same_rows,
    truth_ratios,
)
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.metrics.agreement import (
    forget_quality,
    ks_test,
    model_utility,
    resampled_forget_quality,
)
from expunge.metrics.intervals import cluster_bootstrap, mean_interval, weighted_mean
from expunge.metrics.overlap import rouge_recalls
from expunge.records import Value

__all__ = ["Tofu", "check_reference", "forget_quality_value"]

NEEDS_REFERENCE = "a reference: retain-only model or its stored log (model.reference=...)"


class Tofu(Benchmark):
    """The evaluation of TOFU: probability, ROUGE-L recall and truth ratio on four sets."""

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121"

    ds_size: int | None = Field(default=None, ge=1)
    """Measure only the first rows of the forget and retain sets; the published numbers use 300. Default: all."""
    truth_ratio_mean: Literal["geometric", "arithmetic"] = "geometric"
    """Mean over the wrong answers' probabilities: 'geometric' as in the published numbers, or 'arithmetic' as the
    paper prints it."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest generated answer."""
    generate: bool = True
    """Generate answers for ROUGE. Without them it is faster, and model utility cannot be computed."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if not self.generate and self.max_new_tokens != type(self).model_fields["max_new_tokens"].default:
            raise ValueError("max_new_tokens has no effect with generate: false")
        return self

    def plan(self, sets: Sets) -> Plan:
        """Score every answer, its paraphrase and its wrong variants, and generate once per question.

        Raises:
            DataError: The data has no evaluation set 'forget'.
        """
        measured = {name: self._cut(sets.evaluation[name]) for name in SETS if name in sets.evaluation}
        if "forget" not in measured:
            raise DataError(
                f"{sets.name} has no evaluation set 'forget', which the benchmark {self.name} measures.",
                fix="Use data with right and wrong answers, such as data: {name: tofu} or {name: synthetic}.",
            )
        score = [
            ScoreRequest(set=name, index=index, what=what, question=row.question, answer=text)
            for name, rows in measured.items()
            for index, row in enumerate(rows)
            for text, what in _asked(row).items()
        ]
        generate = [
            GenerationRequest(
                set=name, index=index, question=row.question, max_new_tokens=self.max_new_tokens
            )
            for name, rows in measured.items()
            for index, row in enumerate(rows)
            if self.generate
        ]
        return Plan(sets=measured, score=score, generate=generate)

    def _cut(self, rows: RowSet) -> RowSet:
        if self.ds_size is None or rows.name in ("real_authors", "world_facts"):
            return rows
        return RowSet(name=rows.name, rows=rows.rows[: self.ds_size])

    def rows(
        self,
        plan: Plan,
        scores: Mapping[tuple[str, int, str], Sequence[float]],
        generations: Mapping[tuple[str, int], str],
    ) -> list[SampleRow]:
        """One record per row; what could not be scored is None."""
        found = [
            self._row(name, index, row, scores, generations)
            for name, rows in plan.sets.items()
            for index, row in enumerate(rows)
        ]
        generated = [row for row in found if row["generation"] is not None]
        recalls = rouge_recalls(
            [row["answer"] for row in generated], [row["generation"] for row in generated]
        )
        for position, row in enumerate(generated):
            row["rouge_l_recall"] = float(recalls["rougeL"][position])
            row["rouge_1_recall"] = float(recalls["rouge1"][position])
        return found

    def _row(
        self,
        name: str,
        index: int,
        row: Row,
        scores: Mapping[tuple[str, int, str], Sequence[float]],
        generations: Mapping[tuple[str, int], str],
    ) -> SampleRow:
        asked = _asked(row)

        def nll(text: str) -> float | None:
            return _nll(scores.get((name, index, asked[text])))

        record: SampleRow = {
            "set": name,
            "index": index,
            "id": row.id,
            "group": row.group,
            "question": row.question,
            "answer": row.answer,
            "generation": generations.get((name, index)),
            "nll": nll(row.answer),
            "num_tokens": len(scores.get((name, index, "answer")) or ()),
            "paraphrased_nll": nll(row.paraphrased_answer or row.answer),
            "perturbed_nll": [nll(text) for text in row.perturbed_answers],
            "rouge_l_recall": None,
            "rouge_1_recall": None,
            "truth_ratio": None,
        }
        return {**record, "truth_ratio": row_truth_ratio(record, self.truth_ratio_mean)}

    def headlines(
        self, rows: Sequence[SampleRow], reference: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Forget quality and model utility, and what they are made of.

        Args:
            rows: Rows of this model.
            reference: Rows of the retain-only model, the same rows in any order, or None.
            resamples: Bootstrap resamples for intervals; 0 for none.
            seed: Seed of the bootstrap.

        Raises:
            IncompatibleError: The reference's rows are not these rows.
        """
        quality = Value.missing(NEEDS_REFERENCE)
        if reference is not None:
            check_reference(rows, reference)
            ours, theirs = in_set(rows, "forget"), in_set(reference, "forget")
            pairs = same_rows(ours, theirs)
            quality = forget_quality_value(
                [ours[i] for i, _ in pairs],
                [theirs[j] for _, j in pairs],
                mean=self.truth_ratio_mean,
                resamples=resamples,
                seed=seed,
            )
        metrics = {
            f"{name}/{part}": self._mean_value(in_set(rows, name), name, part, resamples, seed)
            for name in SETS
            for part in COMPONENTS
        }
        return Headlines(
            headlines={"forget_quality": quality, "model_utility": self._utility(rows, resamples, seed)},
            metrics=metrics,
        )

    def _mean_value(
        self, rows: Sequence[SampleRow], name: str, part: str, resamples: int, seed: int
    ) -> Value:
        if not rows:
            return Value.missing(f"the evaluation set {name}")
        values = component(rows, part, name, self.truth_ratio_mean)
        present = ~np.isnan(values)
        num_present = int(present.sum())
        num_missing = len(rows) - num_present
        if num_present == 0:
            return Value(point=None, n_missing=num_missing, needs=self._needs(part, name))
        groups = [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present]
        interval = mean_interval(values[present], groups, resamples, seed)
        low, high = interval or (None, None)
        return Value(
            point=float(values[present].mean()),
            low=low,
            high=high,
            n=num_present,
            n_missing=num_missing,
            how=f"{_describe(part, name, self.truth_ratio_mean)}; {_interval_words(interval, resamples)}",
            better="reference" if name == "forget" else "higher",
        )

    def _needs(self, part: str, name: str) -> str:
        if part == "rouge_l_recall":
            return (
                "ROUGE: generated answers (generate: true)" if not self.generate else f"generations on {name}"
            )
        return f"scored {'answers' if part == 'probability' else 'right and wrong answers'} of {name}"

    def _utility(self, rows: Sequence[SampleRow], resamples: int, seed: int) -> Value:
        """Harmonic mean of the nine, resampled jointly: one draw of rows serves the three numbers of a set."""
        tables, groups, lacking = [], [], []
        for name in UTILITY_SETS:
            own = in_set(rows, name)
            tables.append([component(own, part, name, self.truth_ratio_mean) for part in COMPONENTS])
            groups.append([row["group"] for row in own])
            lacking += [
                f"the evaluation set {name}" if not own else self._needs(part, name)
                for part, column in zip(COMPONENTS, tables[-1], strict=True)
                if np.isnan(column).all()
            ]
        if lacking:
            return Value.missing("; ".join(dict.fromkeys(lacking)))

        def statistic(*weights: np.ndarray) -> np.ndarray:
            pairs = zip(tables, weights, strict=True)
            return model_utility(
                np.stack([weighted_mean(column, w) for table, w in pairs for column in table], axis=-1)
            )

        interval = cluster_bootstrap(statistic, groups, resamples, seed)
        low, high = interval or (None, None)
        incomplete = sum(int(np.isnan(np.stack(table)).any(axis=0).sum()) for table in tables)
        total = sum(len(own) for own in groups)
        return Value(
            point=float(model_utility([np.nanmean(column) for table in tables for column in table])),
            low=low,
            high=high,
            n=total - incomplete,
            n_missing=incomplete,
            how="harmonic mean of probability, ROUGE-L recall and truth ratio on retain, real authors and world "
            f"facts ({self.truth_ratio_mean} truth ratio); {_interval_words(interval, resamples)}",
            better=model_utility.spec.better,
        )


def forget_quality_value(
    rows: Sequence[SampleRow],
    reference: Sequence[SampleRow],
    *,
    mean: Mean,
    resamples: int,
    seed: int,
    where: str = "",
) -> Value:
    """Forget quality of paired rows, with log10 of the p-value and the distance D beside it.

    Args:
        rows: Forget rows of the model.
        reference: The same rows, in the same order, of the retain-only model.
        mean: Mean over the wrong answers in the truth ratio.
        resamples: Bootstrap resamples; authors are drawn for both models at once.
        seed: Seed of the bootstrap.
        where: Which rows these are, in words, where that is not all of them.
    """
    ours, theirs = truth_ratios(rows, mean), truth_ratios(reference, mean)
    present = ~(np.isnan(ours) | np.isnan(theirs))
    num_missing = int((~present).sum())
    if not present.any():
        return Value(
            point=None, n_missing=num_missing, needs="truth ratios of the forget rows in both models"
        )
    ours, theirs = ours[present], theirs[present]
    groups = [row["group"] for row, is_present in zip(rows, present, strict=True) if is_present]
    test = ks_test(ours, theirs)
    interval = cluster_bootstrap(
        lambda weights: resampled_forget_quality(ours, theirs, weights), [groups], resamples, seed
    )
    low, high = interval or (None, None)
    return Value(
        point=test.pvalue,
        low=low,
        high=high,
        n=len(ours),
        n_missing=num_missing,
        how="p-value of a two-sided Kolmogorov-Smirnov test between the truth ratios of this and the retain-only "
        f"model on the same {len(ours)} forget rows{where} ({mean} truth ratio); "
        f"{_interval_words(interval, resamples)}",
        better=forget_quality.spec.better,
        extra={"log10": test.log10_pvalue, "ks": test.statistic},
    )


def _asked(row: Row) -> dict[str, str]:
    """Text -> name of the request that scores it; a text that occurs twice is scored once."""
    texts = {"answer": row.answer, "paraphrased": row.paraphrased_answer or row.answer}
    texts |= {f"perturbed/{k}": text for k, text in enumerate(row.perturbed_answers)}
    asked: dict[str, str] = {}
    for what, text in texts.items():
        asked.setdefault(text, what)
    return asked


def _nll(logps: Sequence[float] | None) -> float | None:
    if logps is None or len(logps) == 0:
        return None
    mean = -math.fsum(logps) / len(logps)
    return None if math.isnan(mean) else mean


def _describe(part: str, name: str, mean: Mean) -> str:
    if part == "rouge_l_recall":
        return "mean ROUGE-L recall of greedy answers"
    if part == "truth_ratio":
        return f"mean of {'min(R, 1/R)' if name == 'forget' else 'max(0, 1 - R)'}, R the {mean} truth ratio"
    if name in ("real_authors", "world_facts"):
        return "mean probability of the answer among its wrong variants, each length-normalised"
    return "mean length-normalised probability of the answer"


def _interval_words(interval: tuple[float, float] | None, resamples: int) -> str:
    if interval is None:
        return "no interval"
    return f"95% percentile interval of {resamples} bootstrap draws of whole groups"
