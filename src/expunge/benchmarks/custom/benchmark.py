"""User-defined forget, retain and holdout data: verbatim knowledge and membership, without any evaluation set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
from expunge.benchmarks.custom import judgement
from expunge.benchmarks.custom.headlines import FLUENCY, SETS, SIMILARITY, CustomHeadlines, paired
from expunge.benchmarks.shared.labels import ANSWER_LABELS
from expunge.benchmarks.shared.membership import MEMBERSHIP_LABELS, Membership, add_gradient_norms
from expunge.benchmarks.shared.token_scores import TOKEN_METRICS, mean_nll, none_for_nan, token_metrics
from expunge.config.recipe import Model
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.text import split_text
from expunge.errors import DataError
from expunge.metrics.fluency import repetition
from expunge.metrics.probability import probability
from expunge.metrics.rouge import rouge_scores
from expunge.metrics.semantic import semantic_similarity
from expunge.modeling.opening import check_same_tokens
from expunge.records import Axes, Judgement, Label, Section

if TYPE_CHECKING:
    from expunge.probes.session import Session


class Custom(Benchmark):
    """Metrics that any forget set allows, with or without a retain set, a holdout set and a retain model.

    Knowledge of a set is its mean extraction strength: the share of an answer (or text) that the model completes word
    for word. It needs no generated text and no retain model, and of the usual metrics it is the most robust to
    relearning. Membership compares forget with holdout rows; PrivLeak and the agreement with the retain model need that
    model. Plain text is measured in pieces; if a set is a single document, intervals resample its pieces.
    """

    title: ClassVar[str] = "Custom"
    paper: ClassVar[str] = "ours; extraction strength after Dorna et al. 2025, arXiv:2506.12618"
    judgement_settings: ClassVar[frozenset[str]] = frozenset({"holdout_margin"})

    limit: int | None = Field(default=None, ge=1)
    """Measure only the first rows of each set; by default all."""
    piece_characters: int = Field(default=1000, ge=20)
    """Length of the pieces in which plain text is measured."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest generated answer."""
    generate: bool = True
    """Generate an answer to every question, for ROUGE and repetition."""
    min_k: float = Field(default=0.4, gt=0, le=1)
    """Share of the least likely tokens in the membership scores Min-K% and Min-K%++."""
    gradient_norm: bool = False
    """Membership by gradient norms too: a backward pass for each forget and holdout row, many times the cost of
    everything else that needs no generation."""
    embedding: str | None = None
    """Folder or hub id of a text-embedding model, to compare generated and true answers in meaning."""
    fluency_model: str | None = None
    """Folder or hub id of a model with the same tokenizer, such as the target, to measure the perplexity of generated
    answers: it is high for a model that was pushed too far."""
    holdout_margin: float = Field(default=0.1, gt=0, lt=0.5)
    """Judgement without a retain model: largest difference between forget and holdout rows that counts as alike."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if not self.generate and self.max_new_tokens != type(self).model_fields["max_new_tokens"].default:
            raise ValueError("max_new_tokens has no effect with generate: false")
        for name in ("embedding", "fluency_model"):
            if not self.generate and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect with generate: false")
        return self

    def labels(self) -> dict[str, Label]:
        """Return the presentation of the headlines."""
        knowledge = "mean extraction strength: share of an answer that the model completes word for word"
        return {
            "forget_knowledge": Label(title="Knowledge of the forget set", explain=knowledge, better="lower"),
            "retain_knowledge": Label(title="Knowledge of the retain set", explain=knowledge, better="higher"),
            "membership_auc": Label(
                title="Membership AUC",
                explain="chance that a forget row looks better known than a holdout row; 0.5 if they look alike",
                better="retain",
            ),
            "privleak": Label(
                title="PrivLeak",
                explain="change of the membership AUC against the retain model; 0 is right",
                unit="%",
                better="retain",
                needs_retain_model=True,
            ),
            "forget_agreement": Label(
                title="Agreement with the retain model",
                explain="p-value of a test on the losses of forget rows; above 0.05 the test cannot tell the two apart",
                better="higher",
                needs_retain_model=True,
            ),
        }

    def metric_labels(self) -> dict[str, Label]:
        """Return the presentation of the metrics of single sets and of membership."""
        return {
            **ANSWER_LABELS,
            "rouge_l_f1": Label(title="ROUGE-L F1", explain="overlap of generated and true answers"),
            SIMILARITY: Label(title="semantic similarity", explain="cosine of the embeddings of both answers"),
            "perplexity": Label(title="perplexity", explain="per token of the true answers or texts"),
            "fluency_perplexity": Label(
                title="perplexity of generated answers", explain="under the fluency model", better="lower"
            ),
            "paired_agreement": Label(
                title="paired agreement with the retain model",
                explain="p-value of the same distance by swaps of both models; below 0.05 they differ",
                better="higher",
                needs_retain_model=True,
            ),
            **MEMBERSHIP_LABELS,
        }

    def axes(self) -> Axes:
        """Return knowledge of the forget set against knowledge of the retain set."""
        return Axes(forget="forget_knowledge", utility="retain_knowledge")

    def sections(self) -> list[Section]:
        """Return the answers to forget and retain questions."""
        return [
            Section(
                kind="answers",
                title="Answers before and after",
                lead="The forget rows, highest remaining ROUGE-L first. Marked words are specific to the true answer, "
                "are not in the question, and are still in the unlearned model's answer. p is the probability of the "
                "true answer per token.",
                set="forget",
            ),
            Section(
                kind="answers",
                title="Cost: retained rows with the largest loss",
                lead="Retained rows, largest loss of ROUGE-L against the target first. The model should still know "
                "these.",
                set="retain",
                order="lost",
            ),
        ]

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude by the retain model or by holdout rows; rules: `expunge.benchmarks.custom.judgement`."""
        return judgement.judge(self.key, target, unlearned, retain, margin=self.holdout_margin, seed=seed)

    def files(self) -> list[str]:
        """Return the embedding and fluency models too, which may be folders."""
        return [*super().files(), *(name for name in (self.embedding, self.fluency_model) if name is not None)]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "question", "answer", "generation", "num_tokens", "nll", "probability"),
            *(*TOKEN_METRICS, "rouge_l_recall", "rouge_l_f1", "repetition", "gradient_norm"),
            *([] if self.embedding is None else [SIMILARITY]),
            *([] if self.fluency_model is None else FLUENCY),
        )

    def plan(self, sets: Sets) -> Plan:
        """Score every answer and text once, and generate an answer to every question."""
        sources = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout}
        measured = {name: self._in_pieces(rows) for name, rows in sources.items() if rows is not None and len(rows)}
        all_rows = [(name, index, row) for name, rows in measured.items() for index, row in enumerate(rows)]
        return Plan(
            sets=measured,
            score=[
                ScoreRequest(name, index, "answer", row.question, row.answer, raw=not row.question, detail=True)
                for name, index, row in all_rows
            ],
            generate=[
                GenerationRequest(name, index, row.question, self.max_new_tokens, draft=row.answer)
                for name, index, row in all_rows
                if self.generate and row.question
            ],
        )

    def _in_pieces(self, rows: RowSet) -> RowSet:
        """Cut the plain texts of a set into pieces; rows with a question stay as they are."""
        selected = rows.rows[: self.limit]
        single = len({row.group for row in selected}) == 1
        pieces: list[Row] = []
        for row in selected:
            texts = [] if row.question else [text.strip() for text in split_text(row.answer, self.piece_characters)]
            if len(texts) < 2:
                pieces.append(row)
                continue
            # A single document has no other to be resampled with, so each of its pieces is a group.
            pieces += [
                replace(row, id=f"{row.id}/{k}", answer=text, group=f"{row.group}/{k}" if single else row.group)
                for k, text in enumerate(texts)
            ]
        return RowSet(name=rows.name, rows=tuple(pieces))

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Run the plan, and add semantic similarity, fluency and gradient norms if they are set."""
        if self.fluency_model is not None:
            check_same_tokens(self.fluency_model, "fluency model", Model(name=self.fluency_model), session.template)
        rows = super().run(session, plan)
        if self.embedding is not None:
            _add_similarity(rows, self.embedding)
        if self.fluency_model is not None:
            _add_fluency(rows, session, self.fluency_model)
        if self.gradient_norm:
            add_gradient_norms(rows, session, plan)
        return rows

    def rows(self, plan: Plan, scores: Mapping[Key, TokenScores], generations: Mapping[Key, str]) -> list[SampleRow]:
        """Return one record per row; values that could not be computed are None."""
        return [
            self._row(name, index, row, scores.get((name, index, "answer")), generations.get((name, index, "answer")))
            for name, rows in plan.sets.items()
            for index, row in enumerate(rows)
        ]

    def _row(self, name: str, index: int, row: Row, scored: TokenScores | None, generation: str | None) -> SampleRow:
        nll = mean_nll(scored)
        generated: dict[str, float | None] = dict.fromkeys(("rouge_l_recall", "rouge_l_f1", "repetition"))
        if generation is not None:
            rouge = rouge_scores([row.answer], [generation])
            generated = {
                "rouge_l_recall": none_for_nan(rouge["rougeL_recall"][0]),
                "rouge_l_f1": none_for_nan(rouge["rougeL_f1"][0]),
                "repetition": none_for_nan(repetition([generation])[0]),
            }
        return {
            "set": name,
            "index": index,
            "id": row.id,
            "group": row.group,
            "question": row.question,
            "answer": row.answer,
            "generation": generation,
            "num_tokens": 0 if scored is None else len(scored),
            "nll": nll,
            "probability": None if nll is None else float(probability([nll])[0]),
            **token_metrics(scored, row.answer, bool(row.question), self.min_k),
            **generated,
            "gradient_norm": None,
        }

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute knowledge of forget and retain set, membership, PrivLeak and agreement with the retain model.

        Args:
            rows: Rows of this model.
            retain_model: Rows of the retain model, or None.
            resamples: Bootstrap resamples for intervals; 0 for none.
            seed: Seed of the bootstrap.

        Raises:
            IncompatibleError: The retain model lacks rows that were measured here.
        """
        retain_rows = None if retain_model is None else paired(rows, retain_model)
        compute = CustomHeadlines(rows, retain_rows, self.generate, resamples, seed)
        agreement, paired_agreement = compute.agreement()
        membership = Membership(rows, retain_rows, self.min_k, self.gradient_norm, resamples, seed)
        return Headlines(
            headlines={
                "forget_knowledge": compute.mean("forget", "extraction_strength"),
                "retain_knowledge": compute.mean("retain", "extraction_strength"),
                "membership_auc": membership.of("min_k")["auc"],
                "privleak": membership.privleak(),
                "forget_agreement": agreement,
            },
            metrics={f"{name}/{metric}": value for name in SETS for metric, value in compute.of_set(name).items()}
            | {"forget/paired_agreement": paired_agreement}
            | membership.all(),
        )

    def compare_rows(self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> None:
        """Raise if the retain model lacks forget or holdout rows that were measured here."""
        paired(rows, retain_model)

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Return rows and settings of a stored result of this benchmark.

        Raises:
            DataError: The file is damaged or not a result of this benchmark.
        """
        from expunge.benchmarks.tofu.stored import read_tofu_log

        log = read_tofu_log(path)
        if log.kind != "expunge" or "rouge_l_f1" not in (log.rows[0] if log.rows else {}):
            raise DataError(
                f"{path} is not a stored result of the benchmark {self.name}.",
                fix=f"Measure the retain model with `expunge evaluate ... --benchmark {self.name} --out FOLDER`, "
                f"and give FOLDER/results/model-{self.name}.json.",
            )
        return log.rows, log.settings


def _add_similarity(rows: list[SampleRow], name: str) -> None:
    """Add the cosine between the embeddings of the true and the generated answer, for rows that have one."""
    from expunge.probes.embedding import embed

    for row in rows:
        row[SIMILARITY] = None
    generated = [row for row in rows if row["generation"] is not None]
    if not generated:
        return
    answers, generations = (embed(name, [row[key] for row in generated]) for key in ("answer", "generation"))
    for row, value in zip(generated, semantic_similarity(answers, generations), strict=True):
        row[SIMILARITY] = none_for_nan(value)


def _add_fluency(rows: list[SampleRow], session: Session, name: str) -> None:
    """Add the log-probability of each generated answer under another model, after the same question."""
    from expunge.modeling.opening import open_model
    from expunge.probes.cache import ProbeCache

    weight = next(session.model.parameters())
    config = Model(name=name, device="cuda" if weight.is_cuda else "cpu")
    model = open_model(config, name, session.tokenizer, dtype=weight.dtype)
    fluency = replace(session, model=model, cache=ProbeCache(None, None), label=name)
    scores = fluency.score(
        [
            ScoreRequest(row["set"], row["index"], "generation", row["question"], row["generation"])
            for row in rows
            if row["generation"]
        ]
    )
    for row in rows:
        scored = scores.get((row["set"], row["index"], "generation"))
        row[FLUENCY[0]] = None if scored is None else math.fsum(scored.logp.tolist())
        row[FLUENCY[1]] = None if scored is None else len(scored)
