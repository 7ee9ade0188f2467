"""TOFU: forget quality against a retain model, and model utility on data to preserve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.benchmarks.base import (
    Benchmark,
    GenerationRequest,
    Headlines,
    Key,
    Measurement,
    Plan,
    SampleRow,
    ScoreRequest,
    TokenScores,
)
from expunge.benchmarks.shared.labels import ANSWER_LABELS
from expunge.benchmarks.shared.membership import MEMBERSHIP_LABELS, add_gradient_norms
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.shared.token_scores import TOKEN_METRICS, mean_nll, none_for_nan, token_metrics
from expunge.benchmarks.tofu import judgement
from expunge.benchmarks.tofu.extras import HOLDOUT, PARAPHRASED, Extras
from expunge.benchmarks.tofu.headlines import TofuHeadlines
from expunge.benchmarks.tofu.rows import (
    COMPONENTS,
    CUT_SETS,
    SETS,
    SetName,
    check_same_rows,
    refuse_informed,
    row_truth_ratio,
    same_rows,
)
from expunge.config.defaults import changed
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.metrics.fluency import repetition
from expunge.metrics.probability import probability
from expunge.metrics.rouge import rouge_recalls
from expunge.modeling.opening import check_same_settings
from expunge.records import Axes, Judgement, Label, Section, Value

if TYPE_CHECKING:
    from expunge.probes.session import Session


COLUMNS = (
    *("set", "index", "id", "group", "question", "answer", "generation"),
    *("nll", "num_tokens", "paraphrased_nll", "perturbed_nll", "rouge_l_recall", "rouge_1_recall", "truth_ratio"),
    *("repetition", *TOKEN_METRICS, "gradient_norm", "paraphrased_generation", "paraphrased_probability"),
    *("paraphrased_rouge_l_recall", "paraphrased_rouge_1_recall"),
)
PAIRED_QUALITY = "forget/paired_quality"
"""Name of the paired version of forget quality among the metrics."""
NEEDS_RETAIN_MODEL = "a retain model or its stored log (model.retain_model=...)"


class Tofu(Benchmark):
    """The evaluation of TOFU: probability, ROUGE-L recall and truth ratio on four sets.

    The same pass over forget and retain answers also returns exact memorisation, extraction strength and membership
    scores; membership scores one more text per holdout row, if the data has such rows (TOFU's holdoutXX). Repetition
    and diversity are computed from the answers that ROUGE needs. Paraphrased questions cost another generation and
    another scored text per forget and retain row, gradient norms a backward pass per row.
    """

    title: ClassVar[str] = "TOFU"
    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121"

    ds_size: int | None = Field(default=None, ge=1)
    """Measure only the first rows of the forget, retain and holdout sets (published numbers: 300); by default all."""
    sets: list[SetName] = Field(default=list(SETS), min_length=1)
    """Measure these sets only. Without all four, model utility cannot be computed; the forget set alone is enough for
    forget quality, at a third of the cost."""
    truth_ratio_mean: Literal["geometric", "arithmetic"] = "geometric"
    """Mean over the probabilities of the wrong answers: 'geometric' as in the published numbers, or
    'arithmetic' as the paper prints it."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest generated answer."""
    generate: bool = True
    """Generate answers for ROUGE. Without them it is faster, and model utility cannot be computed."""
    memorization: bool = True
    """Exact memorisation and extraction strength of forget and retain rows, and membership: forget against holdout
    rows, PrivLeak with a retain model."""
    paraphrased: bool = False
    """Ask paraphrased forget and retain questions too: probability of the answer and ROUGE-L recall."""
    min_k: float = Field(default=0.4, gt=0, le=1)
    """Share of the least likely tokens in the membership scores Min-K% and Min-K%++."""
    gradient_norm: bool = False
    """Membership by gradient norms too: a backward pass for each forget and holdout row."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if not self.generate and self.max_new_tokens != type(self).model_fields["max_new_tokens"].default:
            raise ValueError("max_new_tokens has no effect with generate: false")
        if not self.memorization and (dead := changed(self, "min_k", "gradient_norm")):
            raise ValueError(f"{dead[0]} has no effect with memorization: false")
        if "forget" not in self.sets:
            raise ValueError("sets must include 'forget', which forget quality is computed on")
        return self

    def labels(self) -> dict[str, Label]:
        """Return the presentation of forget quality and model utility."""
        return {
            "forget_quality": Label(
                title="Forget quality",
                explain="p-value of the test against the retain model; above 0.05 the test cannot tell the two apart",
                better="higher",
                needs_retain_model=True,
            ),
            "model_utility": Label(
                title="Model utility",
                explain="harmonic mean over data to preserve: retain set, real authors, world facts",
                better="higher",
            ),
        }

    def metric_labels(self) -> dict[str, Label]:
        """Return the presentation of the metrics of single sets and of membership."""
        return {
            **ANSWER_LABELS,
            "truth_ratio": Label(
                title="truth ratio",
                explain="true against wrong answers; on the forget set 1 means that it cannot tell them apart",
            ),
            "paired_quality": Label(
                title="paired forget quality",
                explain="p-value of the same distance by swaps of both models; below 0.05 they differ",
                better="higher",
                needs_retain_model=True,
            ),
            "paraphrased_probability": Label(title="probability of the answer, paraphrased question"),
            "paraphrased_rouge_l_recall": Label(title="ROUGE-L recall, paraphrased question"),
            "distinct_2": Label(
                title="distinct bigrams", explain="share of different word pairs in all answers", better="higher"
            ),
            **MEMBERSHIP_LABELS,
        }

    def axes(self) -> Axes:
        """Return forget quality against model utility; without a retain model the probability of forget answers."""
        return Axes(
            forget="forget_quality",
            forget_fallback="forget/probability",
            utility="model_utility",
            forget_limit=judgement.THRESHOLD,
        )

    def sections(self) -> list[Section]:
        """Return the truth ratios of the forget set, and the answers to forget and retain questions."""
        return [
            Section(
                kind="distribution",
                title="Truth ratios on the forget set",
                lead="Forget quality compares the unlearned model's curve with the retain model's. The vertical bar is "
                "their widest gap, the Kolmogorov-Smirnov distance D. A model that forgot follows the retain model's "
                "curve; a curve to its right belongs to a model that was pushed too far or produces nonsense.",
                set="forget",
                value="truth_ratio",
            ),
            Section(
                kind="answers",
                title="Answers before and after",
                lead="The forget questions, highest remaining ROUGE-L first. Marked words are specific to the true "
                "answer, are not in the question, and are still in the unlearned model's answer. p is the probability "
                "of the true answer per token.",
                set="forget",
            ),
            *(
                [
                    Section(
                        kind="answers",
                        title="Cost: retained questions with the largest loss",
                        lead="Retained questions, largest loss of ROUGE-L against the target first. The model should "
                        "still know these.",
                        set="retain",
                        order="lost",
                    )
                ]
                if "retain" in self.sets
                else []
            ),
        ]

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude by forget quality and model utility; rules: `expunge.benchmarks.tofu.judgement`."""
        forgetting, forgetting_reasons = judgement.judge_forgetting(target, unlearned, retain)
        utility, utility_reasons = judgement.judge_utility(target, unlearned)
        return Judgement(
            benchmark=self.key,
            title=self.title,
            forgetting=forgetting,
            utility=utility,
            metrics=judgement.decisive_metrics(target, unlearned),
            reasons=forgetting_reasons + utility_reasons,
            rules=judgement.rules(),
            limits=judgement.limits(unlearned.value("forget_quality")),
        )

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return COLUMNS

    def plan(self, sets: Sets) -> Plan:
        """Score every answer, its paraphrase and its wrong variants, and generate once per question.

        Raises:
            DataError: The data has no evaluation set 'forget'.
        """
        selected: dict[str, RowSet] = {
            name: sets.evaluation[name] for name in SETS if name in sets.evaluation and name in self.sets
        }
        if "forget" not in selected:
            raise DataError(
                f"{sets.name} has no evaluation set 'forget', which the benchmark {self.name} measures.",
                fix="Use data with right and wrong answers, such as data: {name: tofu} or {name: synthetic}.",
            )
        if self.memorization and sets.holdout is not None:
            selected[HOLDOUT] = sets.holdout
        if self.ds_size is not None:
            for name in {*CUT_SETS, HOLDOUT} & selected.keys():
                selected[name] = RowSet(name=selected[name].name, rows=selected[name].rows[: self.ds_size])
        all_rows = [(name, index, row) for name, rows in selected.items() for index, row in enumerate(rows)]
        return Plan(
            sets=selected,
            score=[request for name, index, row in all_rows for request in self._scored(name, index, row)],
            generate=[
                request
                for name, index, row in all_rows
                if self.generate
                for request in self._generated(name, index, row)
            ],
        )

    def _scored(self, name: str, index: int, row: Row) -> list[ScoreRequest]:
        # With top-1 hits, the part of an answer that greedy decoding repeats need not be generated token by token.
        detailed = self.generate or (self.memorization and name in (*CUT_SETS, HOLDOUT))
        texts = [(row.question, what, text) for text, what in _answer_requests(row).items()]
        if self._has_paraphrase(name, row):
            texts.append((row.paraphrased_question, PARAPHRASED, row.answer))
        return [
            ScoreRequest(name, index, what, question, text, detail=detailed and what in ("answer", PARAPHRASED))
            for question, what, text in texts
        ]

    def _generated(self, name: str, index: int, row: Row) -> list[GenerationRequest]:
        if name == HOLDOUT:
            return []
        questions = {"answer": row.question}
        if self._has_paraphrase(name, row):
            questions[PARAPHRASED] = row.paraphrased_question
        return [
            GenerationRequest(name, index, question, self.max_new_tokens, what, draft=row.answer)
            for what, question in questions.items()
        ]

    def _has_paraphrase(self, name: str, row: Row) -> bool:
        return self.paraphrased and name in CUT_SETS and bool(row.paraphrased_question)

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Run the plan, and compute gradient norms if `gradient_norm` is set."""
        rows = super().run(session, plan)
        if self.gradient_norm:
            add_gradient_norms(rows, session, plan)
        return rows

    def rows(
        self,
        plan: Plan,
        scores: Mapping[Key, TokenScores],
        generations: Mapping[Key, str],
    ) -> list[SampleRow]:
        """Return one record per row; values that could not be computed are None."""
        records = [
            self._row(name, index, row, scores, generations)
            for name, rows in plan.sets.items()
            for index, row in enumerate(rows)
        ]
        for prefix in ("", "paraphrased_"):
            generated = [row for row in records if row[f"{prefix}generation"] is not None]
            recalls = rouge_recalls(
                [row["answer"] for row in generated], [row[f"{prefix}generation"] for row in generated]
            )
            for position, row in enumerate(generated):
                # An answer without words has no ROUGE.
                row[f"{prefix}rouge_l_recall"] = none_for_nan(float(recalls["rougeL"][position]))
                row[f"{prefix}rouge_1_recall"] = none_for_nan(float(recalls["rouge1"][position]))
        return records

    def _row(
        self,
        name: str,
        index: int,
        row: Row,
        scores: Mapping[Key, TokenScores],
        generations: Mapping[Key, str],
    ) -> SampleRow:
        requests, scored = _answer_requests(row), scores.get((name, index, "answer"))

        def nll(text: str) -> float | None:
            return mean_nll(scores.get((name, index, requests[text])))

        paraphrased_nll = mean_nll(scores.get((name, index, PARAPHRASED)))
        generation = generations.get((name, index, "answer"))
        detailed = self.memorization and name in (*CUT_SETS, HOLDOUT) and scored is not None and scored.detailed
        record: SampleRow = {
            "set": name,
            "index": index,
            "id": row.id,
            "group": row.group,
            "question": row.question,
            "answer": row.answer,
            "generation": generation,
            "nll": nll(row.answer),
            "num_tokens": 0 if scored is None else len(scored),
            "paraphrased_nll": nll(row.paraphrased_answer or row.answer),
            "perturbed_nll": [nll(text) for text in row.perturbed_answers],
            "rouge_l_recall": None,
            "rouge_1_recall": None,
            "truth_ratio": None,
            "repetition": None if generation is None else none_for_nan(repetition([generation])[0]),
            **(token_metrics(scored, row.answer, True, self.min_k) if detailed else dict.fromkeys(TOKEN_METRICS)),
            "gradient_norm": None,
            "paraphrased_generation": generations.get((name, index, PARAPHRASED)),
            "paraphrased_probability": None if paraphrased_nll is None else float(probability([paraphrased_nll])[0]),
            "paraphrased_rouge_l_recall": None,
            "paraphrased_rouge_1_recall": None,
        }
        return {**record, "truth_ratio": row_truth_ratio(record, self.truth_ratio_mean)}

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute forget quality and model utility, their components, memorisation, membership and fluency.

        Args:
            rows: Rows of this model.
            retain_model: Rows of the retain model, the same rows in any order; None without one.
            resamples: Bootstrap resamples for intervals; 0 for none.
            seed: Seed of the bootstrap.

        Raises:
            IncompatibleError: The retain model's rows are not these rows.
        """
        compute = TofuHeadlines(self.truth_ratio_mean, self.generate, resamples, seed)
        quality = paired_quality = Value.missing(NEEDS_RETAIN_MODEL)
        if retain_model is not None:
            check_same_rows(rows, retain_model)
            ours, theirs = in_set(rows, "forget"), in_set(retain_model, "forget")
            pairs = same_rows(ours, theirs)
            quality, paired_quality = compute.quality([ours[i] for i, _ in pairs], [theirs[j] for _, j in pairs])
        metrics = {f"{name}/{metric}": compute.mean(rows, name, metric) for name in SETS for metric in COMPONENTS}
        metrics[PAIRED_QUALITY] = paired_quality
        # Stored evaluations of other tools, and of earlier versions, lack some columns.
        columns = set(rows[0]) if rows else set()
        extras = Extras(rows, resamples, seed)
        if self.memorization and "extraction_strength" in columns:
            metrics |= extras.memorization() | extras.membership(retain_model, self.min_k, self.gradient_norm)
        if self.paraphrased and "paraphrased_probability" in columns:
            metrics |= extras.paraphrased(self.generate)
        if self.generate and "repetition" in columns:
            metrics |= extras.fluency()
        return Headlines({"forget_quality": quality, "model_utility": compute.utility(rows)}, metrics)

    def compare_settings(self, settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
        """Raise if split, prompt, tokenizer or model family differ."""
        check_same_settings(settings, retain_settings)

    def compare_rows(self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> None:
        """Raise if the retain model was measured on other rows, or knows the forget set."""
        check_same_rows(rows, retain_model)
        refuse_informed(retain_model)

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Return rows and settings of a TOFU log, an OpenUnlearning TOFU_EVAL.json or a result of this project.

        Raises:
            DataError: The file is damaged or none of the three.
        """
        from expunge.benchmarks.tofu.stored import read_tofu_log

        log = read_tofu_log(path)
        return log.rows, log.settings


def _answer_requests(row: Row) -> dict[str, str]:
    """Map each text of a row to the name of the request that scores it; a text that occurs twice is scored once."""
    texts = {"answer": row.answer, "paraphrased": row.paraphrased_answer or row.answer}
    texts |= {f"perturbed/{k}": text for k, text in enumerate(row.perturbed_answers)}
    requests: dict[str, str] = {}
    for what, text in texts.items():
        requests.setdefault(text, what)
    return requests
