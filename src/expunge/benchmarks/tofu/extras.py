"""What TOFU's rows are measured on besides its own numbers: paraphrases, memorisation, membership, fluency."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.mean import mean_value
from expunge.benchmarks.shared.membership import COMPARED, Membership
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.tofu.rows import CUT_SETS, same_rows
from expunge.metrics.base import Better
from expunge.metrics.fluency import distinct_n
from expunge.metrics.rouge import word_rule
from expunge.records import Value

HOLDOUT = "holdout"
PARAPHRASED = "paraphrased_question"
"""Name of the requests that ask a row's paraphrased question."""

_MEMORIZATION = {
    "exact_memorization": "mean share of the answer's tokens that the model would have chosen in their place",
    "extraction_strength": "mean share of the answer that the model completes word for word by itself",
}
_PARAPHRASED = {
    "paraphrased_probability": "mean length-normalised probability of the answer after the paraphrased question",
    "paraphrased_rouge_l_recall": "mean ROUGE-L recall of answers generated to paraphrased questions",
}
_BETTER: dict[str, Better] = {"forget": "retain", "retain": "higher"}


class Extras:
    """Numbers of measured rows beyond TOFU's own.

    Args:
        rows: Rows of this model.
        resamples: Bootstrap resamples for intervals; 0 for none.
        seed: Seed of the bootstrap.
    """

    def __init__(self, rows: Sequence[SampleRow], resamples: int, seed: int) -> None:
        self._rows, self._resamples, self._seed = rows, resamples, seed

    def memorization(self) -> dict[str, Value]:
        """Exact memorisation and extraction strength of forget and retain rows."""
        needs = "answers that fit into the model's context"
        return {
            f"{name}/{part}": self._mean(name, part, how, _BETTER[name], needs)
            for name in CUT_SETS
            for part, how in _MEMORIZATION.items()
        }

    def membership(
        self, retain_model: Sequence[SampleRow] | None, min_k: float, gradient_norm: bool
    ) -> dict[str, Value]:
        """Forget against holdout rows: AUC and TPR of every score, and PrivLeak.

        Args:
            retain_model: Rows of the retain model, or None.
            min_k: Share of the least likely tokens.
            gradient_norm: Whether gradient norms were measured.
        """
        others = None if retain_model is None else _paired(self._rows, retain_model)
        how = Membership(self._rows, others, min_k, gradient_norm, self._resamples, self._seed)
        return {**how.all(), "membership/privleak": how.privleak()}

    def paraphrased(self, generate: bool) -> dict[str, Value]:
        """How well forget and retain answers are known when the question is put in other words."""
        needs = "rows with a paraphrased question" if generate else "paraphrased questions and generate: true"
        return {
            f"{name}/{part}": self._mean(name, part, how + self._word_rule(name, part), _BETTER[name], needs)
            for name in CUT_SETS
            for part, how in _PARAPHRASED.items()
        }

    def _word_rule(self, name: str, part: str) -> str:
        generated = [row for row in in_set(self._rows, name) if row.get("paraphrased_generation") is not None]
        return word_rule([row["answer"] for row in generated]) if "rouge" in part else ""

    def fluency(self) -> dict[str, Value]:
        """Repetition inside, and variety among, the answers generated on the forget set."""
        how = "mean share of 4-grams of a generated answer that it has had before"
        texts = [row["generation"] for row in in_set(self._rows, "forget") if row["generation"] is not None]
        distinct = distinct_n(texts)
        return {
            "forget/repetition": self._mean("forget", "repetition", how, "lower", "generated answers of 4 words"),
            "forget/distinct_2": Value.missing("generated answers of 2 words")
            if distinct != distinct
            else Value(
                point=distinct,
                n=len(texts),
                how="share of different pairs of neighbouring words among all pairs of all generated answers; no "
                "interval, for drawing answers twice lowers it",
                better=distinct_n.spec.better,
            ),
        }

    def _mean(self, name: str, part: str, how: str, better: Better, needs: str) -> Value:
        own = in_set(self._rows, name)
        return mean_value(
            [row.get(part) for row in own],
            [row["group"] for row in own],
            how=how,
            better=better,
            needs=needs if own else f"the evaluation set {name}",
            resamples=self._resamples,
            seed=self._seed,
        )


def _paired(rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> list[SampleRow] | None:
    """The retain model's record of each forget and holdout row, or None where it did not measure all of them."""
    found: list[SampleRow] = []
    for name in COMPARED:
        ours, theirs = in_set(rows, name), in_set(retain_model, name)
        pairs = same_rows(ours, theirs)
        if len(pairs) < len(ours):
            return None
        found += [theirs[j] for _, j in pairs]
    return found
