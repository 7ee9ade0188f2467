"""Your own forget, retain and holdout data: how much is known word for word, and what gives the forget set away."""

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
    Plan,
    SampleRow,
    ScoreRequest,
    TokenScores,
)
from expunge.benchmarks.custom.headlines import FLUENCY, SETS, SIMILARITY, CustomHeadlines, paired
from expunge.benchmarks.shared.membership import Membership, add_gradient_norms
from expunge.benchmarks.shared.rows import check_settings
from expunge.benchmarks.shared.token_scores import TOKEN_NUMBERS, mean_nll, plain, token_numbers
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.text import split
from expunge.errors import DataError
from expunge.metrics.fluency import repetition
from expunge.metrics.probability import probability
from expunge.metrics.rouge import rouge_scores
from expunge.metrics.semantic import semantic_similarity

if TYPE_CHECKING:
    from expunge.probes.session import Session


class Custom(Benchmark):
    """Everything that can be measured on any forget set, with a retain set, a holdout set or a retain model or without.

    Knowledge of a set is its mean extraction strength: the share of an answer (or text) that the model completes word
    for word by itself. It needs no generated text and no retain model, and of the usual measures it stands relearning
    best. Membership compares forget and holdout rows; PrivLeak and the agreement with a retain model need that
    model. Plain text is measured in pieces; where a set is a single document, intervals draw its pieces.
    """

    paper: ClassVar[str] = "ours; extraction strength after Dorna et al. 2025, arXiv:2506.12618"

    limit: int | None = Field(default=None, ge=1)
    """Measure only the first rows of each set; by default all."""
    piece_characters: int = Field(default=1000, ge=20)
    """Length of the pieces in which plain text is measured."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest generated answer."""
    generate: bool = True
    """Let the model answer every question, for ROUGE and repetition."""
    min_k: float = Field(default=0.4, gt=0, le=1)
    """Share of the least likely tokens in the membership scores Min-K% and Min-K%++."""
    gradient_norm: bool = False
    """Membership by gradient norms too: a backward pass for each forget and holdout row, many times the cost of
    everything else that needs no generation."""
    embedding: str | None = None
    """Folder or hub id of a text-embedding model, by which generated and right answers are compared in meaning."""
    fluency_model: str | None = None
    """Folder or hub id of a model with the same tokenizer, such as the target, under which the perplexity of generated
    answers is measured: a model that was pushed too far writes what it would never have written."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if not self.generate and self.max_new_tokens != type(self).model_fields["max_new_tokens"].default:
            raise ValueError("max_new_tokens has no effect with generate: false")
        for name in ("embedding", "fluency_model"):
            if not self.generate and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect with generate: false")
        return self

    def files(self) -> list[str]:
        """The other models too, where they are folders."""
        return [*super().files(), *(name for name in (self.embedding, self.fluency_model) if name is not None)]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "question", "answer", "generation", "num_tokens", "nll", "probability"),
            *(*TOKEN_NUMBERS, "rouge_l_recall", "rouge_l_f1", "repetition", "gradient_norm"),
            *([] if self.embedding is None else [SIMILARITY]),
            *([] if self.fluency_model is None else FLUENCY),
        )

    def plan(self, sets: Sets) -> Plan:
        """Score every answer and text once, and let the model answer every question."""
        given = {"forget": sets.forget, "retain": sets.retain, "holdout": sets.holdout}
        measured = {name: self._measured(rows) for name, rows in given.items() if rows is not None and len(rows)}
        every = [(name, index, row) for name, rows in measured.items() for index, row in enumerate(rows)]
        return Plan(
            sets=measured,
            score=[
                ScoreRequest(name, index, "answer", row.question, row.answer, raw=not row.question, detail=True)
                for name, index, row in every
            ],
            generate=[
                GenerationRequest(name, index, row.question, self.max_new_tokens, draft=row.answer)
                for name, index, row in every
                if self.generate and row.question
            ],
        )

    def _measured(self, rows: RowSet) -> RowSet:
        chosen = rows.rows[: self.limit]
        alone = len({row.group for row in chosen}) == 1
        pieces = [piece for row in chosen for piece in self._pieces(row, alone)]
        return RowSet(name=rows.name, rows=tuple(pieces))

    def _pieces(self, row: Row, alone: bool) -> list[Row]:
        texts = [] if row.question else [text.strip() for text in split(row.answer, self.piece_characters)]
        if len(texts) < 2:
            return [row]
        # One document has no other to be drawn beside it.
        return [
            replace(row, id=f"{row.id}/{k}", answer=text, group=f"{row.group}/{k}" if alone else row.group)
            for k, text in enumerate(texts)
        ]

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """As usual, and gradient norms and closeness in meaning where they are wanted."""
        rows = super().run(session, plan)
        if self.embedding is not None:
            _add_similarity(rows, self.embedding)
        if self.fluency_model is not None:
            _add_fluency(rows, session, self.fluency_model)
        if self.gradient_norm:
            add_gradient_norms(rows, session, plan)
        return rows

    def rows(self, plan: Plan, scores: Mapping[Key, TokenScores], generations: Mapping[Key, str]) -> list[SampleRow]:
        """One record per row; what could not be measured is None."""
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
            generated = plain(
                {
                    "rouge_l_recall": rouge["rougeL_recall"][0],
                    "rouge_l_f1": rouge["rougeL_f1"][0],
                    "repetition": repetition([generation])[0],
                }
            )
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
            **token_numbers(scored, row.answer, bool(row.question), self.min_k),
            **generated,
            "gradient_norm": None,
        }

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Knowledge of forget and retain set, membership, and what a retain model adds.

        Args:
            rows: Rows of this model.
            retain_model: Rows of the retain model, or None.
            resamples: Bootstrap resamples for intervals; 0 for none.
            seed: Seed of the bootstrap.

        Raises:
            IncompatibleError: The retain model lacks rows that were measured here.
        """
        others = None if retain_model is None else paired(rows, retain_model)
        how = CustomHeadlines(rows, others, self.generate, resamples, seed)
        membership = Membership(rows, others, self.min_k, self.gradient_norm, resamples, seed)
        return Headlines(
            headlines={
                "forget_knowledge": how.mean("forget", "extraction_strength"),
                "retain_knowledge": how.mean("retain", "extraction_strength"),
                "membership_auc": membership.of("min_k")["auc"],
                "privleak": membership.privleak(),
                "forget_agreement": how.agreement(),
            },
            metrics={f"{name}/{part}": value for name in SETS for part, value in how.of_set(name).items()}
            | membership.all(),
        )

    def check_retain_model(
        self,
        rows: Sequence[SampleRow],
        retain_model: Sequence[SampleRow],
        settings: Mapping[str, Any],
        retain_settings: Mapping[str, Any],
    ) -> None:
        """Refuse a retain model with other rows, or another prompt, tokenizer or model family.

        Raises:
            IncompatibleError: What differs.
        """
        # The name of the data holds a hash of every row; only the rows that are compared have to agree.
        check_settings({**settings, "split": None}, retain_settings)
        paired(rows, retain_model)

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Rows and settings of a stored result of this benchmark.

        Raises:
            DataError: The file is damaged or the result of something else.
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
    """Cosine between the embeddings of the right and the generated answer, for rows that have one."""
    from expunge.probes.embedding import embed

    for row in rows:
        row[SIMILARITY] = None
    generated = [row for row in rows if row["generation"] is not None]
    if not generated:
        return
    answers, written = (embed(name, [row[key] for row in generated]) for key in ("answer", "generation"))
    for row, value in zip(generated, semantic_similarity(answers, written), strict=True):
        row[SIMILARITY] = None if math.isnan(value) else float(value)


def _add_fluency(rows: list[SampleRow], session: Session, name: str) -> None:
    """Log-probability of each generated answer under another model, after the same question."""
    from expunge.config.recipe import Model
    from expunge.modeling.load import check_pair, load_model
    from expunge.probes.cache import ProbeCache

    weight = next(session.model.parameters())
    model = load_model(name, config=Model(name=name), dtype=weight.dtype, device=weight.device)
    check_pair(model, session.tokenizer, name)
    other = replace(session, model=model, cache=ProbeCache(None, None), label=name)
    scores = other.score(
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
