"""Metrics of TOFU's rows beyond the paper's: memorisation, membership, paraphrased questions, fluency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.mean import MeanSpec, mean_value
from expunge.benchmarks.shared.membership import COMPARED, Membership
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.tofu.rows import CUT_SETS, same_rows
from expunge.metrics.base import Better
from expunge.metrics.fluency import distinct_n
from expunge.metrics.rouge import word_rule
from expunge.records import Value

HOLDOUT = "holdout"
PARAPHRASED = "paraphrased_question"
"""Name of the requests for a row's paraphrased question."""

_MEMORIZATION = {
    "exact_memorization": "mean share of the answer's tokens that the model ranks first",
    "extraction_strength": "mean share of the answer that the model completes word for word",
}
_PARAPHRASED = {
    "paraphrased_probability": "mean length-normalised probability of the answer after the paraphrased question",
    "paraphrased_rouge_l_recall": "mean ROUGE-L recall of answers generated to paraphrased questions",
}
_BETTER: dict[str, Better] = {"forget": "retain", "retain": "higher"}


class Extras:
    """Metrics beyond TOFU's own, computed from rows.

    Args:
        rows: Rows of this model.
        resamples: Bootstrap resamples for intervals; 0 for none.
        seed: Seed of the bootstrap.
    """

    def __init__(self, rows: Sequence[SampleRow], resamples: int, seed: int) -> None:
        self._rows, self._resamples, self._seed = rows, resamples, seed

    def memorization(self) -> dict[str, Value]:
        """Return exact memorisation and extraction strength of forget and retain rows."""
        needs = "answers that fit into the model's context"
        return {
            f"{name}/{column}": self._mean(name, column, MeanSpec(how, _BETTER[name], needs))
            for name in CUT_SETS
            for column, how in _MEMORIZATION.items()
        }

    def membership(
        self, retain_model: Sequence[SampleRow] | None, min_k: float, gradient_norm: bool
    ) -> dict[str, Value]:
        """Return AUC and TPR of every membership score, forget against holdout rows, and PrivLeak.

        Args:
            retain_model: Rows of the retain model, or None.
            min_k: Share of the least likely tokens.
            gradient_norm: Whether gradient norms were measured.
        """
        paired = None if retain_model is None else _paired(self._rows, retain_model)
        membership = Membership(self._rows, paired, min_k, gradient_norm, self._resamples, self._seed)
        return {**membership.all(), "membership/privleak": membership.privleak()}

    def paraphrased(self, generate: bool) -> dict[str, Value]:
        """Return probability and ROUGE-L recall of forget and retain answers after paraphrased questions."""
        needs = "rows with a paraphrased question" if generate else "paraphrased questions and generate: true"
        return {
            f"{name}/{column}": self._mean(
                name, column, MeanSpec(how + self._word_rule(name, column), _BETTER[name], needs)
            )
            for name in CUT_SETS
            for column, how in _PARAPHRASED.items()
        }

    def _word_rule(self, name: str, column: str) -> str:
        generated = [row for row in in_set(self._rows, name) if row.get("paraphrased_generation") is not None]
        return word_rule([row["answer"] for row in generated]) if "rouge" in column else ""

    def fluency(self) -> dict[str, Value]:
        """Return repetition within, and diversity among, the answers generated on the forget set."""
        how = "mean share of 4-grams of a generated answer that occurred in it before"
        repetition = self._mean("forget", "repetition", MeanSpec(how, "lower", "generated answers of 4 words"))
        texts = [row["generation"] for row in in_set(self._rows, "forget") if row["generation"] is not None]
        distinct = distinct_n(texts)
        if math.isnan(distinct):
            return {"forget/repetition": repetition, "forget/distinct_2": Value.missing("generated answers of 2 words")}
        return {
            "forget/repetition": repetition,
            "forget/distinct_2": Value(
                point=distinct,
                n=len(texts),
                how="share of different pairs of neighbouring words among all pairs of all generated answers; no "
                "interval, because answers that a resample holds twice would lower it",
                better=distinct_n.spec.better,
            ),
        }

    def _mean(self, name: str, column: str, spec: MeanSpec) -> Value:
        rows = in_set(self._rows, name)
        if not rows:
            return Value.missing(f"the evaluation set {name}")
        return mean_value(
            [row.get(column) for row in rows],
            [row["group"] for row in rows],
            spec,
            resamples=self._resamples,
            seed=self._seed,
        )


def _paired(rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> list[SampleRow] | None:
    """Return the retain model's record of each forget and holdout row; None if it did not measure all of them."""
    records: list[SampleRow] = []
    for name in COMPARED:
        ours, theirs = in_set(rows, name), in_set(retain_model, name)
        pairs = same_rows(ours, theirs)
        if len(pairs) < len(ours):
            return None
        records += [theirs[j] for _, j in pairs]
    return records
